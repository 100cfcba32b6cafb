/* pool.h: connections opened on demand, given out in the order of asking.
 *
 * A request goes to an idle connection first; then the pool grows to its maximum; only then is it
 * pipelined, behind statements whose moving average is short, never behind an old head, and never
 * together with a statement that was not seen before. What must not share (sessions, transactions,
 * COPY, everything but SELECT, INSERT, UPDATE, DELETE, VALUES and WITH) waits for a connection of
 * its own. Waiters are served first come, first served, each with a timeout.
 *
 * Plain C on the loop's thread. The pool is counted: its owner, its connections and its requests
 * hold it. */
#ifndef NEBULA_PG_POOL_H
#define NEBULA_PG_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "async/loop.h"
#include "pg/config.h"
#include "pg/conn.h"
#include "pg/request.h"
#include "pg/text_types.h"

typedef struct pg_pool_options {
  size_t max_connections, min_connections, max_waiting;
  size_t max_bytes;       /* of a result, or of a row of a stream; 0: unbounded */
  size_t statement_cache; /* prepared statements a connection keeps; 0: none */
  double max_lifetime, idle_timeout, connection_timeout, ping_after; /* seconds */
  bool read_only;
} pg_pool_options;

typedef struct pg_pool_stats {
  size_t connections, idle, busy, held, connecting, waiting;
  uint64_t opened, closed, failed, requests, waited, timeouts, pipelined;
} pg_pool_stats;

/* Opens no connection. Takes the configuration over, also where it fails: NULL, out of memory. */
pg_pool *pg_pool_new(loop *on, pg_config *config, const pg_pool_options *options);

/* Refuses what comes, ends what waits, closes connections as they become idle; `now` closes all. */
void pg_pool_close(pg_pool *self, bool now);
bool pg_pool_is_closed(const pg_pool *self);

/* The owner's reference. */
void pg_pool_release(pg_pool *self);

/* Has every statement that a caller (its `where` is set) sent told to `observe` when it has ended,
 * with the seconds it took; NULL ends that. */
typedef void pg_observe_fn(void *data, const pg_request *request, double seconds);
void pg_pool_observe(pg_pool *self, pg_observe_fn *observe, void *data);
bool pg_pool_is_observed(const pg_pool *self);

/* Has `leaked` called once for each connection that is held for longer than `after` seconds; NULL
 * ends that. */
typedef void pg_leak_fn(void *data, const char *where, double seconds);
void pg_pool_report_leaks(pg_pool *self, double after, pg_leak_fn *leaked, void *data);

/* Has `warn` told, once, that the server has room for fewer connections than the pool may open. It
 * is asked when the pool has grown to a fair part of its maximum. NULL ends that. */
typedef void pg_warn_fn(void *data, const char *text);
void pg_pool_warn(pg_pool *self, pg_warn_fn *warn, void *data);

/* Connections above the new maximum close as they become idle. False on a lack of memory. */
bool pg_pool_resize(pg_pool *self, size_t max_connections);

/* As many wait as may; who comes now is to be turned away. */
bool pg_pool_is_full(const pg_pool *self);

/* The statement of a text, with a reference for the caller; NULL on a lack of memory. */
pg_statement *pg_pool_intern(pg_pool *self, const char *text, size_t length);

/* The statement used last; the others follow by `older`. */
const pg_statement *pg_pool_newest_statement(const pg_pool *self);

/* Has the values of a type, and of its arrays, come as text from the next statement on, because the
 * caller reads them itself; false where there are too many such types. And undoes that. */
bool pg_pool_read_as_text(pg_pool *self, Oid type, Oid array);
void pg_pool_read_itself(pg_pool *self, Oid type);
const pg_text_types *pg_pool_text_types(const pg_pool *self);

/* Hands a request in; its `done` is called later, never from inside this call. */
void pg_pool_submit(pg_pool *self, pg_request *request);

/* The same for a connection that the caller holds. */
void pg_pool_submit_to(pg_pool *self, pg_conn *conn, pg_request *request);

/* After an acquire: the connection, whose address stays in *holder until it is given back or lost
 * (NULL from then on). NULL where it was lost already. */
pg_conn *pg_pool_take(pg_request *acquired, pg_conn **holder);

/* Takes a held connection back. What still runs there, or an open transaction, is ended first. */
void pg_pool_give_back(pg_pool *self, pg_conn *conn);

/* The task holds every connection that the pool may open: it would wait for itself. */
bool pg_pool_would_deadlock(const pg_pool *self, uint64_t task);

/* Lists who holds connections: "a.lua:12 for 3.2 s, ...". */
void pg_pool_holders(const pg_pool *self, char *text, size_t size);

void pg_pool_stats_get(const pg_pool *self, pg_pool_stats *out);
const pg_pool_options *pg_pool_options_get(const pg_pool *self);
const char *pg_pool_place(const pg_pool *self);

/* The SQLSTATE with which a server refused the last connection; "" where none answered. */
const char *pg_pool_refusal(const pg_pool *self);

/* The application_name of its sessions. */
const char *pg_pool_application(const pg_pool *self);
loop *pg_pool_loop(const pg_pool *self);
bool pg_pool_is_read_only(const pg_pool *self);

/* For request.c and conn*.c. */
pg_request *pg_pool_request_take(pg_pool *self);
void pg_pool_request_give(pg_pool *self, pg_request *request);
void pg_pool_observed(pg_pool *self, const pg_request *request);
void pg_pool_abandoned(pg_pool *self, pg_request *request);

/* A request that nobody waits for, with the core's reference alone; NULL on a lack of memory. */
pg_request *pg_pool_internal_request(pg_pool *self, pg_request_kind kind, const char *sql);

#endif
