/* pool.c: who gets which connection. */
#include "pg/listen.h"
#include "pg/pool_private.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void run_pump(void *data) {
  pg_pool_pump(data);
}

pg_pool *pg_pool_new(loop *on, pg_config *config, const pg_pool_options *options) {
  pg_pool *self = calloc(1, sizeof *self);
  if (self == NULL) {
    pg_config_free(config);
    return NULL;
  }
  self->loop = on;
  self->config = config;
  self->options = *options;
  self->refs = 1;
  self->room = options->max_connections;
  self->conns = calloc(options->max_connections, sizeof(pg_conn *));
  self->statements = pg_statements_new(4096);
  self->pump = (loop_deferred){.run = run_pump, .data = self};
  if (self->conns == NULL || self->statements == NULL) {
    pg_pool_release(self);
    return NULL;
  }
  if (options->min_connections > 0) loop_defer(on, &self->pump);
  return self;
}

void pg_pool_release(pg_pool *self) {
  if (--self->refs > 0) return;
  loop_timer_stop(self->loop, self->expiry);
  loop_timer_stop(self->loop, self->retry);
  loop_timer_stop(self->loop, self->upkeep);
  loop_timer_stop(self->loop, self->leak_timer);
  loop_defer_cancel(self->loop, &self->pump);
  while (self->spare != NULL) {
    pg_request *r = self->spare;
    self->spare = r->next;
    free(r);
  }
  pg_listener_free(self->listener);
  pg_statements_free(self->statements);
  pg_config_free(self->config);
  free(self->conns);
  free(self);
}

pg_request *pg_pool_request_take(pg_pool *self) {
  pg_request *r = self->spare;
  if (r != NULL) {
    self->spare = r->next;
    self->spares--;
  } else {
    r = malloc(sizeof *r);
    if (r == NULL) return NULL;
  }
  self->refs++;
  return r;
}

void pg_pool_request_give(pg_pool *self, pg_request *request) {
  if (self->spares < PG_REQUESTS_KEPT) {
    request->next = self->spare;
    self->spare = request;
    self->spares++;
  } else {
    free(request);
  }
  pg_pool_release(self);
}

void pg_pool_observe(pg_pool *self, pg_observe_fn *observe, void *data) {
  self->observe = observe;
  self->observer = data;
}

bool pg_pool_is_observed(const pg_pool *self) {
  return self->observe != NULL;
}

void pg_pool_observed(pg_pool *self, const pg_request *r) {
  if (self->observe == NULL || r->where[0] == '\0' || r->statement == NULL) return;
  if (r->kind == PG_REQUEST_DESCRIBE && r->outcome == PG_OUTCOME_OK) return;
  uint64_t took = r->took_ns;
  if (took == 0 && r->sent_ns != 0) took = uv_hrtime() - r->sent_ns;
  self->observe(self->observer, r, (double)took / 1e9);
}

static void nobody_waits(pg_request *request) {
  (void)request;
}

pg_request *pg_pool_internal_request(pg_pool *self, pg_request_kind kind, const char *sql) {
  pg_statement *statement = pg_pool_intern(self, sql, strlen(sql));
  pg_request *r = statement != NULL ? pg_request_new(self, kind, statement) : NULL;
  if (r == NULL) return NULL;
  r->abandoned = r->unprepared = true;
  r->done = nobody_waits;
  return r;
}

pg_statement *pg_pool_intern(pg_pool *self, const char *text, size_t length) {
  return pg_statements_intern(self->statements, text, length);
}

const pg_statement *pg_pool_newest_statement(const pg_pool *self) {
  return pg_statements_newest(self->statements);
}

bool pg_pool_read_as_text(pg_pool *self, Oid type, Oid array) {
  if (!pg_text_types_add(&self->text_types, type, array)) return false;
  for (size_t i = 0; i < self->count; i++)
    if (self->conns[i]->prepared != NULL) pg_prepared_use_text(self->conns[i]->prepared);
  return true;
}

void pg_pool_read_itself(pg_pool *self, Oid type) {
  pg_text_types_remove(&self->text_types, type);
}

const pg_text_types *pg_pool_text_types(const pg_pool *self) {
  return &self->text_types;
}

bool pg_conn_available(const pg_conn *conn) {
  return conn->state == PG_CONN_READY && !conn->held && !conn->evict && !conn->rolling &&
         !conn->cancelling;
}

/* Whether the request may go behind those that the connection already carries. */
static bool may_follow(const pg_conn *conn, uint64_t now_ns) {
  if (conn->reserved || conn->sent.count >= PG_PIPELINE_DEPTH) return false;
  if (conn->pending.count > 0) return false; /* as many bytes as may be are in flight */
  const pg_request *head = conn->sent.first, *tail = conn->sent.last;
  if (head->alone || tail->alone) return false;
  double mean = tail->statement->mean_us; /* nobody is behind a slow one: only the tail can be */
  if (mean < 0 || mean > PG_SHORT_US) return false;
  uint64_t since = head->sent_ns > conn->settled_ns ? head->sent_ns : conn->settled_ns;
  return (double)(now_ns - since) < PG_SHORT_US * 1000;
}

bool pg_pool_can_grow(const pg_pool *self) {
  /* After a failure one connection tries alone. */
  return !self->closed && self->count < self->options.max_connections &&
         self->connecting < PG_CONNECTING_MAX && (self->failures == 0 || self->connecting == 0) &&
         uv_now(&self->loop->uv) >= self->grow_after_ms;
}

/* The connection for a request now, or NULL: it has to wait. */
static pg_conn *choose(pg_pool *self, const pg_request *r) {
  pg_conn *idle = NULL, *shared = NULL;
  bool share =
      !r->alone && r->statement != NULL && r->statement->mean_us >= 0 && !pg_pool_can_grow(self);
  uint64_t now_ns = 0;
  size_t least = SIZE_MAX;
  for (size_t i = 0; i < self->count; i++) {
    pg_conn *c = self->conns[i];
    if (!pg_conn_available(c)) continue;
    size_t load = c->sent.count + c->pending.count;
    if (load == 0) {
      if (idle == NULL || c->idle_ms > idle->idle_ms) idle = c;
    } else if (share && load < least) {
      if (now_ns == 0) now_ns = uv_hrtime();
      if (!may_follow(c, now_ns)) continue;
      shared = c;
      least = load;
    }
  }
  return idle != NULL ? idle : shared;
}

static void hold(pg_conn *conn, pg_request *r) {
  conn->held = true;
  conn->held_ms = uv_now(&conn->loop->uv);
  conn->leak_told = false;
  conn->holder = r->task;
  snprintf(conn->where, sizeof conn->where, "%s", r->where);
}

/* Gives the request its connection. The queue's reference, if it had one, is given up. */
static void place(pg_pool *self, pg_conn *conn, pg_request *r) {
  if (conn->reserved) {
    conn->reserved = false;
    self->reserved--;
  }
  if (r->kind == PG_REQUEST_ACQUIRE) {
    hold(conn, r);
    pg_pool_watch_leaks(self);
    r->conn = conn;
    conn->held_by = &r->conn;
    pg_request_finish(r, PG_OUTCOME_OK, NULL);
    return;
  }
  conn->pinging = false;
  if (conn->sent.count > 0) self->stats.pipelined++;
  pg_conn_send(conn, r);
}

/* One connection for each waiter that needs its own stops taking shared requests. */
static void reserve(pg_pool *self) {
  while (self->reserved < self->waiting_alone) {
    pg_conn *best = NULL;
    for (size_t i = 0; i < self->count; i++) {
      pg_conn *c = self->conns[i];
      if (!pg_conn_available(c) || c->reserved) continue;
      if (best == NULL || c->sent.count < best->sent.count) best = c;
    }
    if (best == NULL) return;
    best->reserved = true;
    self->reserved++;
  }
}

void pg_pool_leave_queue(pg_pool *self, pg_request *r) {
  pg_queue_remove(r);
  if (r->alone) self->waiting_alone--;
}

void pg_pool_pump(pg_pool *self) {
  if (self->pumping) return;
  self->pumping = true;
  self->refs++;
  while (self->waiting.first != NULL) {
    pg_request *r = self->waiting.first;
    pg_conn *conn = choose(self, r);
    if (conn == NULL) {
      pg_pool_grow(self);
      reserve(self);
      break;
    }
    pg_pool_leave_queue(self, r);
    place(self, conn, r);
    pg_request_release(r);
  }
  if (self->waiting.first == NULL && self->reserved > 0) {
    for (size_t i = 0; i < self->count; i++)
      self->conns[i]->reserved = false;
    self->reserved = 0;
  }
  if (self->count < self->options.min_connections) pg_pool_grow(self);
  self->pumping = false;
  pg_pool_watch_waiting(self);
  pg_pool_release(self);
}

/* A cancel can hit nobody else's work: with a request that runs alone there is at most the pool's
 * own, for which nobody waits, and a connection that is being cancelled takes nothing more. Through
 * a pooler, a session's number is not its server's. */
static bool is_alone(const pg_request *r) {
  const pg_conn *conn = r->conn;
  bool only = conn->sent.count == 1 && conn->pending.count == 0;
  return conn->held || r->alone || (only && r->pool->options.statement_cache > 0);
}

/* The request ends before its statement is cancelled: what comes until then is for nobody. */
static void on_deadline(void *data) {
  pg_request *r = data;
  pg_pool *self = r->pool;
  bool waiting = r->queue == &self->waiting;
  bool unsent = r->conn != NULL && r->queue == &r->conn->pending;
  r->timer = NULL;
  r->refs++; /* its end may close the connection, which then lets go of it */
  if (waiting)
    pg_pool_leave_queue(self, r);
  else if (unsent)
    pg_queue_remove(r);
  pg_request_finish(r, PG_OUTCOME_TIMEOUT, NULL);
  if (waiting || unsent)
    pg_request_release(r);
  else if (r->conn != NULL && is_alone(r))
    pg_pool_cancel(self, r->conn);
  else if (r->conn != NULL)
    pg_pool_watch_overdue(self, r->conn);
  pg_request_release(r);
}

static void set_deadline(pg_pool *self, pg_request *r) {
  if (r->timeout <= 0) return;
  /* The server's own statement_timeout comes first where it can. */
  r->timer = loop_timer_start(self->loop, r->timeout + 0.05, on_deadline, r);
}

void pg_pool_submit(pg_pool *self, pg_request *request) {
  self->stats.requests++;
  set_deadline(self, request);
  if ((self->waiting.first == NULL || request->resumed) && !self->closed &&
      request->kind != PG_REQUEST_ACQUIRE) {
    pg_conn *conn = choose(self, request);
    if (conn != NULL) {
      place(self, conn, request);
      return;
    }
  }
  request->refs++;
  request->queued_ms = uv_now(&self->loop->uv);
  if (request->resumed) { /* as old as the oldest, so that the first in the queue expires first */
    if (self->waiting.first != NULL) request->queued_ms = self->waiting.first->queued_ms;
    pg_queue_push_front(&self->waiting, request);
  } else {
    pg_queue_push(&self->waiting, request);
  }
  if (request->alone) self->waiting_alone++;
  self->stats.waited++;
  /* The answer comes from the loop, never from inside this call. */
  loop_defer(self->loop, &self->pump);
}

void pg_pool_submit_to(pg_pool *self, pg_conn *conn, pg_request *request) {
  set_deadline(self, request);
  pg_conn_send(conn, request);
}

void pg_pool_abandoned(pg_pool *self, pg_request *r) {
  if (r->queue == &self->waiting) {
    pg_pool_leave_queue(self, r);
    pg_request_release(r);
    loop_defer(self->loop, &self->pump);
    return;
  }
  pg_conn *conn = r->conn;
  if (conn == NULL) return;
  if (r->queue == &conn->pending) {
    pg_queue_remove(r);
    pg_request_release(r);
    loop_defer(self->loop, &self->pump); /* its connection may be free again */
  } else if (is_alone(r)) {
    pg_pool_cancel(self, conn);
  }
}

pg_conn *pg_pool_take(pg_request *acquired, pg_conn **holder) {
  pg_conn *conn = acquired->conn;
  acquired->conn = NULL;
  *holder = conn;
  if (conn != NULL) conn->held_by = holder;
  return conn;
}

bool pg_pool_would_deadlock(const pg_pool *self, uint64_t task) {
  if (task == 0 || self->count < self->options.max_connections) return false;
  for (size_t i = 0; i < self->count; i++)
    if (!self->conns[i]->held || self->conns[i]->holder != task) return false;
  return true;
}

void pg_pool_holders(const pg_pool *self, char *text, size_t size) {
  size_t n = 0;
  text[0] = '\0';
  uint64_t now = uv_now(&self->loop->uv);
  for (size_t i = 0; i < self->count && n + 1 < size; i++) {
    const pg_conn *c = self->conns[i];
    if (!c->held || c->rolling) continue;
    int more = snprintf(text + n, size - n, "%s%s for %.1f s", n > 0 ? ", " : "",
                        c->where[0] != '\0' ? c->where : "C", (double)(now - c->held_ms) / 1000);
    n += more > 0 ? (size_t)more : 0;
  }
}

void pg_pool_stats_get(const pg_pool *self, pg_pool_stats *out) {
  *out = self->stats;
  out->waiting = self->waiting.count;
  out->connecting = self->connecting;
  for (size_t i = 0; i < self->count; i++) {
    const pg_conn *c = self->conns[i];
    if (c->state != PG_CONN_READY) continue;
    out->connections++;
    if (c->held && !c->rolling)
      out->held++;
    else if (!c->held && pg_conn_quiet(c))
      out->idle++;
    else
      out->busy++;
  }
}

const pg_pool_options *pg_pool_options_get(const pg_pool *self) {
  return &self->options;
}

const char *pg_pool_refusal(const pg_pool *self) {
  return self->code;
}

const char *pg_pool_place(const pg_pool *self) {
  return pg_config_place(self->config);
}

const char *pg_pool_application(const pg_pool *self) {
  const char *name = pg_config_get(self->config, "application_name");
  return name != NULL ? name : "nebula";
}

loop *pg_pool_loop(const pg_pool *self) {
  return self->loop;
}

bool pg_pool_is_read_only(const pg_pool *self) {
  return self->options.read_only;
}

bool pg_pool_is_closed(const pg_pool *self) {
  return self->closed;
}
