/* pool_private.h: the pool's own state, for pool*.c alone. */
#ifndef NEBULA_PG_POOL_PRIVATE_H
#define NEBULA_PG_POOL_PRIVATE_H

#include "pg/pool.h"

/* A statement is short below this, and a head is old above it. */
#define PG_SHORT_US 5000.0

enum {
  PG_PIPELINE_DEPTH = 64, /* requests on one shared connection */
  PG_CONNECTING_MAX = 16, /* connections being opened at once */
  PG_REQUESTS_KEPT = 1024,
};

struct pg_pool {
  loop *loop;
  pg_config *config;
  pg_pool_options options;
  unsigned refs;
  bool closed, connected_once, pumping;
  pg_conn **conns;
  size_t room, count, connecting, reserved;
  struct pg_listener *listener; /* NULL until something listens */
  pg_conn *control;             /* carries cancels; NULL until one is needed */
  uint64_t last_serial;
  pg_queue waiting;
  size_t waiting_alone; /* of them, those that need a connection of their own */
  pg_statements *statements;
  pg_text_types text_types;
  pg_request *spare; /* requests to use again */
  size_t spares;
  pg_warn_fn *warn; /* NULL once it was told */
  void *warn_data;
  bool asked_room;
  pg_leak_fn *leaked;
  void *leak_data;
  double leak_after;
  loop_timer *leak_timer;
  loop_timer *expiry, *retry, *upkeep;
  loop_deferred pump;
  size_t first_host;      /* the next connect begins with it */
  unsigned failures;      /* connects failed in a row */
  uint64_t grow_after_ms; /* no new connection before */
  char error[480];        /* the last failure to connect */
  char code[6];
  pg_observe_fn *observe;
  void *observer;
  pg_pool_stats stats;
};

/* A new connection may be opened now. */
bool pg_pool_can_grow(const pg_pool *self);

/* The connection of that number, or NULL. */
pg_conn *pg_pool_find(const pg_pool *self, uint64_t serial);

/* Serves the waiters that can be served. */
void pg_pool_pump(pg_pool *self);

/* Opens one more connection where that is allowed now. */
void pg_pool_grow(pg_pool *self);

/* A connection was opened: ask whether the server has room for all that may be. */
void pg_pool_check_room(pg_pool *self, pg_conn *conn);

/* The server has refused a connection for lack of room. */
void pg_pool_no_room(pg_pool *self);

/* A connection was taken: look whether it comes back. */
void pg_pool_watch_leaks(pg_pool *self);

/* Keeps what a failed connection said, as `error` and `code`. */
void pg_pool_note_failure(pg_pool *self, const char *text);

/* A waiter waits no longer; the queue's reference is the caller's now. */
void pg_pool_leave_queue(pg_pool *self, pg_request *request);

/* Ends everyone who waits. */
void pg_pool_fail_waiting(pg_pool *self, pg_outcome outcome, const char *message);

/* Keeps the timer of the head waiter and that of idle connections right. */
void pg_pool_watch_waiting(pg_pool *self);
void pg_pool_watch_idle(pg_pool *self);

/* Cancels what the connection runs for its one holder. Its requests still end by themselves. */
void pg_pool_cancel(pg_pool *self, pg_conn *conn);

/* After results came in: a cancel may be over now, and so may the wait for what is overdue. */
void pg_pool_cancel_settle(pg_conn *conn);

/* A shared statement's deadline has passed, which the server itself was told: if nothing comes, the
 * connection is broken, whatever its socket says, and is closed. */
void pg_pool_watch_overdue(pg_pool *self, pg_conn *conn);

bool pg_conn_available(const pg_conn *conn);

#endif
