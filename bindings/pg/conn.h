/* conn.h: one connection to a server, on the loop.
 *
 * Names are resolved on libuv's threads, libpq connects without blocking, and from then on the
 * connection stays in libpq's pipeline mode: each request is a segment with a Sync of its own, so
 * an error ends at its Sync and never touches a neighbour. Scripts and COPY leave pipeline mode for
 * their time. Requests are answered in order.
 *
 * The pool decides what is sent where; a connection only carries it. It reports through
 * pg_conn_events, and frees itself after `closed`, when its handles are gone. */
#ifndef NEBULA_PG_CONN_H
#define NEBULA_PG_CONN_H

#include <stdbool.h>
#include <stdint.h>
#include <libpq-fe.h>
#include "async/loop.h"
#include "pg/config.h"
#include "pg/request.h"
#include "pg/statement.h"

typedef enum pg_conn_state {
  PG_CONN_RESOLVING,
  PG_CONN_CONNECTING,
  PG_CONN_READY,
  PG_CONN_CLOSED,
} pg_conn_state;

typedef struct pg_conn_events {
  void (*ready)(pg_conn *conn);    /* it may be used */
  void (*advanced)(pg_conn *conn); /* some requests have ended; it may be idle now */
  void (*notified)(pg_conn *conn, const PGnotify *notification); /* may be NULL */
  void (*closed)(pg_conn *conn); /* it failed or was closed, and all its requests are answered */
} pg_conn_events;

struct pg_conn {
  loop *loop;
  const pg_config *config;
  const pg_conn_events *events;
  pg_pool *pool;
  PGconn *pg;
  uv_poll_t *poll; /* malloc'd, freed in its close callback */
  int polled;      /* the events it waits for */
  pg_conn_state state;
  bool pipeline;   /* libpq is in pipeline mode */
  bool paused;     /* a streaming reader is behind: nothing is read */
  bool lost;       /* closed by a failure, not by its owner */
  size_t gathered; /* bytes read since the last message that was whole, about */
  pg_queue sent, pending;
  size_t in_flight;      /* bytes of what is sent and not answered */
  pg_prepared *prepared; /* NULL where the statement cache is off */
  loop_deferred flush, reap;
  loop_timer *timer, *again; /* of connecting, cancelling or what is overdue; of repeating
                              a cancel */
  char error[600];           /* why it failed; libpq tells of each try */
  char code[6];              /* SQLSTATE, where the server gave one */

  uv_getaddrinfo_t resolver;
  bool resolving;
  size_t hosts, resolved; /* of them, looked up so far */
  size_t first_host;      /* is tried first */
  bool unanswered;        /* the host that was tried last, which first_host then is, was silent */
  struct addrinfo **addresses;

  /* For the pool. */
  size_t index;
  bool held;                        /* by a session, a transaction or a request that runs alone */
  bool reserved;                    /* takes no more shared requests, so that it becomes idle */
  bool evict;                       /* close it as soon as it is idle */
  bool dirty;                       /* a session may have changed its settings */
  bool cancelling, cancel_answered; /* nothing is sent until the answer came and `sent` is empty */
  bool pinging;                     /* what it carries is the pool's own: it counts as idle */
  bool leak_told;
  uint64_t pinged_ms;
  uint64_t serial;
  bool rolling;    /* a ROLLBACK runs before it is given back */
  char begin[280]; /* sent in front of the next request, in its segment: "A;B" are two statements */
  uint64_t idle_ms, held_ms, expires_ms, settled_ns;
  pg_conn **held_by; /* the holder's pointer, cleared where the connection is lost */
  uint64_t holder;   /* the task that holds it */
  char where[64];    /* where it was taken */
};

/* Starts to connect, to the host of that number first; NULL on a lack of memory. prepared_max 0
 * turns the statement cache off. */
pg_conn *pg_conn_open(loop *on, const pg_config *config, const pg_conn_events *events,
                      pg_pool *pool, double timeout, size_t prepared_max, size_t first_host);

/* Sends a request, behind those sent before. The connection takes a reference. */
void pg_conn_send(pg_conn *self, pg_request *request);

/* Closes at once; requests that wait here end with `outcome`. */
void pg_conn_close(pg_conn *self, pg_outcome outcome, const char *message);

/* A streaming reader has room again. */
void pg_conn_resume(pg_conn *self);

/* A reader takes rows one by one: what is sent now waits for the end of its loop. */
bool pg_conn_is_streaming(const pg_conn *self);

/* Nothing is sent or pending. */
bool pg_conn_quiet(const pg_conn *self);

/* The session is in no transaction; right only where it is quiet. */
bool pg_conn_settled(const pg_conn *self);

/* For conn_*.c. */
void pg_conn_fail(pg_conn *self, const char *message, const PGresult *result);
void pg_conn_watch(pg_conn *self, int events);
void pg_conn_advance(pg_conn *self);
void pg_conn_process(pg_conn *self);
void pg_conn_unwatch(pg_conn *self);

#endif
