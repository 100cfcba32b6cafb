/* statement.h: the statements a pool has seen, and which of them a connection has prepared.
 *
 * A pool knows each SQL text once: its class, what the server said of its parameters and columns,
 * and the moving average of its time, by which the pool decides what may be pipelined behind it.
 * A connection keeps the least recently used order of what it has prepared, and forgets the oldest.
 *
 * A statement is counted: the pool's table holds one reference, each request and each connection's
 * entry another. Everything runs on the loop's thread. */
#ifndef NEBULA_PG_STATEMENT_H
#define NEBULA_PG_STATEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <libpq-fe.h>
#include "pg/scan.h"
#include "pg/tally.h"

typedef struct pg_statement {
  struct pg_statement *chain;         /* same bucket */
  struct pg_statement *newer, *older; /* order of use */
  char *text;
  size_t length;
  uint64_t hash;
  uint32_t id; /* never given twice in a pool */
  unsigned refs;
  pg_scan scan;
  unsigned version; /* of the description; grows each time the server is asked */
  bool described;   /* the fields below are known */
  int nparams;
  Oid *params;
  double mean_us; /* moving average of the server's time; negative before the first */
  double mean_rows;
  uint64_t calls;
  pg_tally tally;
} pg_statement;

typedef struct pg_statements pg_statements;

/* NULL on a lack of memory. */
pg_statements *pg_statements_new(size_t capacity);
void pg_statements_free(pg_statements *self);

/* The statement of a text, with a reference for the caller; NULL on a lack of memory. */
pg_statement *pg_statements_intern(pg_statements *self, const char *text, size_t length);

/* The one used last; the others follow by `older`. NULL where there is none. */
const pg_statement *pg_statements_newest(const pg_statements *self);

void pg_statement_retain(pg_statement *self);
void pg_statement_release(pg_statement *self);

/* Keeps what PQsendDescribePrepared answered. False on a lack of memory. */
bool pg_statement_describe(pg_statement *self, const PGresult *result);

/* Counts one execution of so many microseconds, which gave so many rows. */
void pg_statement_ran(pg_statement *self, double us, size_t rows);

/* A connection's prepared statements. */
typedef struct pg_prepared pg_prepared;

typedef struct pg_prepared_entry {
  struct pg_prepared_entry *chain, *newer, *older;
  pg_statement *statement;
  uint32_t
      name;    /* never given twice on a connection: one that the server kept is in nobody's way */
  bool binary; /* its results are better fetched so; false until the server has described them */
} pg_prepared_entry;

pg_prepared *pg_prepared_new(size_t capacity);
void pg_prepared_free(pg_prepared *self);

/* The entry, now the most recently used, or NULL. */
pg_prepared_entry *pg_prepared_find(pg_prepared *self, const pg_statement *statement);

/* Adds an entry. Where the cache is full, the oldest goes and *evicted is its name (0 if none). */
pg_prepared_entry *pg_prepared_add(pg_prepared *self, pg_statement *statement, uint32_t *evicted);

/* Chooses the format of the entry's results by the columns of one. They do not change as long as
 * the server knows the name: a plan that would give others is refused as stale. */
void pg_prepared_learn(pg_prepared *self, const pg_statement *statement, uint32_t name,
                       bool binary);

/* From now on all results come as text. */
void pg_prepared_use_text(pg_prepared *self);

/* Drops the statement's entry, unless it goes by another name meanwhile. */
void pg_prepared_forget(pg_prepared *self, const pg_statement *statement, uint32_t name);
void pg_prepared_clear(pg_prepared *self);

/* "nebula_<name>", what a statement is prepared under; empty for 0. */
typedef struct pg_name {
  char text[24];
} pg_name;
pg_name pg_statement_name(uint32_t name);

#endif
