/* listen.c: see listen.h. Subscriptions that ended are taken out at the end of the turn, never
 * while the list is walked. */
#include "pg/listen.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pg/pool_private.h"

struct pg_subscription {
  pg_subscription *next;
  pg_listener *listener;
  const pg_subscription_events *events;
  void *data;
  uint64_t serial;
  bool confirmed; /* it has listened once */
  bool ended, over;
  char channel[PG_CHANNEL_MOST + 1];
};

struct pg_listener {
  pg_pool *pool;
  pg_conn *conn;
  pg_subscription *first;
  loop_timer *retry, *life;
  loop_deferred sweep;
  uint64_t last_serial;
  double ping;
  unsigned failures;
  bool heard;   /* since the last look */
  bool pinging; /* and no answer yet */
  bool refused; /* the server did not take a LISTEN: this connection is of no use */
};

static void open_conn(pg_listener *self);
static void on_life(void *data);

/* ---- what is sent ---- */

static bool send_command(pg_listener *self, const char *sql, pg_request_fn *done, uint64_t tag) {
  pg_request *r = pg_pool_internal_request(self->pool, PG_REQUEST_EXECUTE, sql);
  if (r == NULL) return false;
  if (done != NULL) {
    r->abandoned = false;
    r->done = done;
    r->tag[0] = tag;
  }
  pg_conn_send(self->conn, r);
  pg_request_release(r);
  return true;
}

/* LISTEN or UNLISTEN with the channel's name quoted. */
static bool send_for(pg_listener *self, const char *verb, const char *channel, pg_request_fn *done,
                     uint64_t tag) {
  char sql[2 * PG_CHANNEL_MOST + 16];
  size_t n = (size_t)snprintf(sql, sizeof sql, "%s \"", verb);
  for (const char *p = channel; *p != '\0'; p++) {
    if (*p == '"') sql[n++] = '"';
    sql[n++] = *p;
  }
  sql[n++] = '"';
  sql[n] = '\0';
  return send_command(self, sql, done, tag);
}

static pg_subscription *find(const pg_listener *self, uint64_t serial) {
  for (pg_subscription *s = self->first; s != NULL; s = s->next)
    if (s->serial == serial && !s->ended && !s->over) return s;
  return NULL;
}

static void end_with(pg_subscription *s, const char *why) {
  if (s->ended || s->over) return;
  s->over = true;
  s->events->over(s->data, why);
}

static void on_listening(pg_request *r) {
  pg_listener *self = r->pool->listener;
  pg_subscription *s = find(self, r->tag[0]);
  if (r->outcome == PG_OUTCOME_ERROR) {
    const char *why = PQresultErrorField(r->result, PG_DIAG_MESSAGE_PRIMARY);
    self->refused = true;
    if (s != NULL && !s->confirmed) end_with(s, why != NULL ? why : "LISTEN was refused");
  }
  if (r->outcome != PG_OUTCOME_OK || s == NULL) return;
  bool again = s->confirmed;
  s->confirmed = true;
  self->failures = 0;
  s->events->confirmed(s->data, again);
}

static void listen_for(pg_subscription *s) {
  if (!send_for(s->listener, "LISTEN", s->channel, on_listening, s->serial))
    s->listener->refused = true;
}

/* ---- the connection's life ---- */

static void stop_timers(pg_listener *self) {
  loop_timer_stop(self->pool->loop, self->retry);
  loop_timer_stop(self->pool->loop, self->life);
  self->retry = self->life = NULL;
}

static void on_retry(void *data) {
  pg_listener *self = data;
  self->retry = NULL;
  open_conn(self);
}

static void open_later(pg_listener *self) {
  double seconds = 0.02 * (double)(1u << (self->failures < 8 ? self->failures : 8));
  if (seconds > 5) seconds = 5;
  seconds *= 0.75 + (double)(uv_hrtime() % 1000) / 2000;
  self->failures++;
  if (self->retry == NULL)
    self->retry = loop_timer_start(self->pool->loop, seconds, on_retry, self);
}

static void watch_life(pg_listener *self) {
  if (self->life == NULL && self->ping > 0)
    self->life = loop_timer_start(self->pool->loop, self->ping, on_life, self);
}

static void on_pong(pg_request *r) {
  if (r->outcome == PG_OUTCOME_OK) r->pool->listener->pinging = false;
}

static void on_life(void *data) {
  pg_listener *self = data;
  self->life = NULL;
  if (self->conn == NULL) return;
  if (self->pinging && !self->heard) {
    pg_conn_fail(self->conn, "the server did not answer a ping", NULL);
    return;
  }
  if (!self->heard && !self->pinging) self->pinging = send_command(self, "SELECT 1", on_pong, 0);
  self->heard = false;
  watch_life(self);
}

static void on_ready(pg_conn *conn) {
  pg_listener *self = conn->pool->listener;
  self->heard = true;
  self->pinging = false;
  for (pg_subscription *s = self->first; s != NULL; s = s->next)
    if (!s->ended && !s->over) listen_for(s);
  watch_life(self);
}

static void on_advanced(pg_conn *conn) {
  pg_listener *self = conn->pool->listener;
  self->heard = true;
  if (self->refused) pg_conn_fail(conn, "the server refused to listen", NULL);
}

static void on_notified(pg_conn *conn, const PGnotify *n) {
  for (pg_subscription *s = conn->pool->listener->first; s != NULL; s = s->next)
    if (!s->ended && !s->over && s->confirmed && strcmp(s->channel, n->relname) == 0)
      s->events->notified(s->data, n->extra, n->be_pid);
}

static void on_closed(pg_conn *conn) {
  pg_pool *pool = conn->pool;
  pg_listener *self = pool->listener;
  self->conn = NULL;
  self->refused = false;
  stop_timers(self);
  if (conn->lost && !pool->closed) {
    pg_pool_note_failure(pool, conn->error);
    for (pg_subscription *s = self->first; s != NULL; s = s->next)
      if (!s->confirmed) end_with(s, pool->error);
    open_later(self);
  }
  pg_pool_release(pool);
}

static const pg_conn_events EVENTS = {
    .ready = on_ready, .advanced = on_advanced, .closed = on_closed, .notified = on_notified};

static void open_conn(pg_listener *self) {
  pg_pool *pool = self->pool;
  self->conn = pg_conn_open(pool->loop, pool->config, &EVENTS, pool,
                            pool->options.connection_timeout, 0, pool->first_host);
  if (self->conn != NULL)
    pool->refs++;
  else
    open_later(self);
}

/* ---- subscriptions ---- */

static bool is_wanted(const pg_listener *self, const char *channel) {
  for (const pg_subscription *s = self->first; s != NULL; s = s->next)
    if (!s->ended && strcmp(s->channel, channel) == 0) return true;
  return false;
}

static void on_sweep(void *data) {
  pg_listener *self = data;
  pg_pool *pool = self->pool;
  pool->refs++;
  for (pg_subscription **at = &self->first; *at != NULL;) {
    pg_subscription *s = *at;
    if (!s->ended) {
      at = &s->next;
      continue;
    }
    *at = s->next;
    if (self->conn != NULL && self->conn->state == PG_CONN_READY && !is_wanted(self, s->channel))
      send_for(self, "UNLISTEN", s->channel, NULL, 0);
    free(s);
    pg_pool_release(pool);
  }
  if (self->first == NULL) {
    stop_timers(self);
    if (self->conn != NULL) pg_conn_close(self->conn, PG_OUTCOME_CLOSED, "nobody listens");
  }
  pg_pool_release(pool);
}

static pg_listener *listener_of(pg_pool *pool) {
  if (pool->listener == NULL) pool->listener = calloc(1, sizeof *pool->listener);
  if (pool->listener == NULL) return NULL;
  pool->listener->pool = pool;
  pool->listener->sweep = (loop_deferred){.run = on_sweep, .data = pool->listener};
  return pool->listener;
}

pg_subscription *pg_subscribe(pg_pool *pool, const char *channel, double ping,
                              const pg_subscription_events *events, void *data) {
  pg_listener *self = pool->listener != NULL ? pool->listener : listener_of(pool);
  pg_subscription *s = self != NULL ? calloc(1, sizeof *s) : NULL;
  if (s == NULL) return NULL;
  s->listener = self;
  s->events = events;
  s->data = data;
  s->serial = ++self->last_serial;
  snprintf(s->channel, sizeof s->channel, "%s", channel);
  pg_subscription **at = &self->first;
  while (*at != NULL)
    at = &(*at)->next;
  *at = s;
  pool->refs++;
  if (self->ping == 0 || (ping > 0 && ping < self->ping)) {
    self->ping = ping;
    loop_timer_stop(pool->loop, self->life);
    self->life = NULL;
    if (self->conn != NULL && self->conn->state == PG_CONN_READY) watch_life(self);
  }
  if (self->conn == NULL && self->retry == NULL)
    open_conn(self);
  else if (self->conn != NULL && self->conn->state == PG_CONN_READY)
    listen_for(s);
  return s;
}

void pg_subscription_end(pg_subscription *self) {
  self->ended = true;
  loop_defer(self->listener->pool->loop, &self->listener->sweep);
}

void pg_listener_close(pg_listener *self) {
  if (self == NULL) return;
  stop_timers(self);
  if (self->conn != NULL) pg_conn_close(self->conn, PG_OUTCOME_CLOSED, "the pool was closed");
  for (pg_subscription *s = self->first; s != NULL; s = s->next)
    end_with(s, "the pool was closed");
}

void pg_listener_free(pg_listener *self) {
  if (self == NULL) return;
  loop_defer_cancel(self->pool->loop, &self->sweep);
  free(self);
}
