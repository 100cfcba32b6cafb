/* request.h: one statement on its way: what is sent, who waits, what came back.
 *
 * A request is counted twice: once for the caller, who gives it back with pg_request_release, once
 * for the core while it is queued or sent. The caller may turn away at any time with
 * pg_request_abandon; an answer that comes later is dropped. Parameters are read when the request
 * is sent, so the caller keeps their bytes until it is done or abandoned, or copies them with
 * pg_request_keep. All on the loop's thread. */
#ifndef NEBULA_PG_REQUEST_H
#define NEBULA_PG_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <libpq-fe.h>
#include "async/loop.h"
#include "pg/statement.h"

typedef struct pg_request pg_request;
typedef struct pg_conn pg_conn;
typedef struct pg_pool pg_pool;
typedef struct pg_copy pg_copy;

typedef enum pg_request_kind {
  PG_REQUEST_EXECUTE,  /* the statement with its parameters */
  PG_REQUEST_DESCRIBE, /* prepare it and learn its types */
  PG_REQUEST_SCRIPT,   /* several statements, no parameters: the simple protocol */
  PG_REQUEST_COPY,     /* a COPY statement; its data goes through a pg_copy */
  PG_REQUEST_ACQUIRE,  /* nothing is sent: the caller holds a connection when it is done */
} pg_request_kind;

typedef enum pg_outcome {
  PG_OUTCOME_OK,
  PG_OUTCOME_ERROR,   /* the server said so: see result */
  PG_OUTCOME_LOST,    /* the connection broke, and the server cannot have done it */
  PG_OUTCOME_UNKNOWN, /* the connection broke after it was sent: it may have been done */
  PG_OUTCOME_CONNECT, /* no connection could be made */
  PG_OUTCOME_WAITED,  /* no connection became free in time */
  PG_OUTCOME_TIMEOUT, /* its own deadline passed */
  PG_OUTCOME_LIMIT,   /* the result passed max_bytes */
  PG_OUTCOME_UNFIT,   /* a value has no place in the form that was asked for: see message */
  PG_OUTCOME_CLOSED,  /* the pool or the connection was closed by its owner */
  PG_OUTCOME_MEMORY,
} pg_outcome;

typedef void pg_request_fn(pg_request *request);

typedef struct pg_queue {
  pg_request *first, *last;
  size_t count;
} pg_queue;

enum { PG_REQUEST_INLINE = 8, PG_REQUEST_SCRATCH = 32, PG_REQUEST_ROWS = 512 };

struct pg_request {
  pg_request *next, *prev;
  pg_queue *queue; /* the queue it stands in, or NULL */
  pg_pool *pool;
  pg_conn *conn; /* that runs it, or that an acquire was given */
  pg_request_kind kind;
  pg_outcome outcome;
  unsigned refs;
  bool alone;       /* nothing is pipelined with it */
  bool streaming;   /* rows are handed over one by one: see pg_request_next_row */
  bool gathered;    /* streaming, but its caller takes all at once: the limit is for the whole */
  bool copied_rows; /* the caller's: a batch of a cursor */
  bool resumed;     /* its caller has waited already, for the statement's types: goes first */
  bool unprepared;  /* sent as text: the caller said so */
  bool finished, abandoned, retried;
  bool fatal_seen; /* the server said why it ends the session */
  bool dirties;    /* what it changes in the session is undone before another caller gets it */
  bool inside;     /* part of a transaction, with which it is undone where the session ends */

  pg_statement *statement;
  uint32_t name;  /* it was sent under, 0: none */
  uint32_t stale; /* it was sent under before, whose plan the server would no longer run */
  int nparams;
  const char **values;
  int *lengths, *formats;
  bool binary; /* the result's format */

  PGresult *result;
  const char *message; /* where there is no result */
  size_t size;         /* of its text and parameters, once a connection has it */
  size_t max_bytes;    /* 0: unbounded */
  size_t bytes;        /* of its result so far */
  double timeout;      /* seconds for the whole, 0: none */
  loop_timer *timer;
  uint64_t asked_ns; /* where the pool is observed: when the caller began to wait */
  uint64_t queued_ms, sent_ns, serial; /* serial: of the connection it was sent over */
  uint64_t took_ns;                    /* of the server, once it has answered */
  int seen, skip, parse_step; /* results so far; those before the statement's own; the Parse's */

  pg_request_fn *done; /* once it is finished; where streaming, each time `wanted` rows came */
  PGresult **rows;     /* streaming: a ring of single rows that wait to be read */
  size_t rows_first, rows_count, rows_seen;
  bool wanted;
  pg_copy *copy;
  uint64_t tag[3]; /* the caller's: its ticket */
  int shape;       /* the caller's */
  uint64_t task;   /* the caller's: who asks */
  char where[64];  /* the caller's: file:line, for messages */

  struct pg_block *blocks; /* copied bytes */
  const char *inline_values[PG_REQUEST_INLINE];
  int inline_lengths[PG_REQUEST_INLINE], inline_formats[PG_REQUEST_INLINE];
  char scratch[PG_REQUEST_INLINE][PG_REQUEST_SCRATCH];
};

/* A fresh request of the pool, with one reference; NULL on a lack of memory. Takes over the
 * reference of the statement. */
pg_request *pg_request_new(pg_pool *pool, pg_request_kind kind, pg_statement *statement);

/* Room for so many parameters, all NULL. False on a lack of memory. */
bool pg_request_parameters(pg_request *self, int count);

/* Memory that lives as long as the request; NULL on a lack of it. */
char *pg_request_bytes(pg_request *self, size_t length);

/* Copies the parameters, for a caller that goes on before the request is sent. False on a lack of
 * memory. */
bool pg_request_keep(pg_request *self);

/* The bytes of its text and its parameters. */
size_t pg_request_measure(const pg_request *self);

/* Gives up one reference. */
void pg_request_release(pg_request *self);

/* The caller no longer waits: the request leaves its queue, or its answer will be dropped. Gives up
 * the caller's reference. */
void pg_request_abandon(pg_request *self);

/* Streaming: the next row, which the caller clears, or NULL where none has come yet; and the same
 * row, left where it is. */
PGresult *pg_request_next_row(pg_request *self);
const PGresult *pg_request_peek_row(const pg_request *self);

/* For the core: keeps a row; false on a lack of memory. Full at PG_REQUEST_ROWS: stop reading. */
bool pg_request_add_row(pg_request *self, PGresult *row);

/* For the core: tells the caller, once. The core's reference stays. */
void pg_request_finish(pg_request *self, pg_outcome outcome, const char *message);

void pg_queue_push(pg_queue *self, pg_request *request);
void pg_queue_push_front(pg_queue *self, pg_request *request);
void pg_queue_remove(pg_request *request);

#endif
