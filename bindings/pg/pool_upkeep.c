/* pool_upkeep.c: what a pool does by itself: it lets idle connections go, asks those that rest for
 * a sign of life, tells of connections that are held for too long, and follows a change of its
 * size. */
#include <stdio.h>
#include <stdlib.h>
#include "pg/pool_private.h"

#define PING_SECONDS 5.0
#define EVERY_MOST 30.0

/* A pool below this size asks nobody whether there is room for it. */
#define ROOM_SURE 20

/* ---- idle connections ---- */

static void on_pinged(pg_request *r) {
  pg_conn *conn = r->outcome == PG_OUTCOME_TIMEOUT ? pg_pool_find(r->pool, r->tag[0]) : NULL;
  if (conn != NULL) pg_conn_fail(conn, "it did not answer a ping", NULL);
}

static void ping(pg_pool *self, pg_conn *conn, uint64_t now) {
  pg_request *r = pg_pool_internal_request(self, PG_REQUEST_EXECUTE, "SELECT 1");
  if (r == NULL) return;
  r->abandoned = false;
  r->done = on_pinged;
  r->tag[0] = conn->serial;
  r->timeout = self->options.ping_after < PING_SECONDS ? self->options.ping_after : PING_SECONDS;
  conn->pinging = true;
  conn->pinged_ms = now;
  pg_pool_submit_to(self, conn, r);
  pg_request_release(r);
}

static bool is_due(uint64_t since_ms, double seconds, uint64_t now) {
  return seconds > 0 && since_ms + (uint64_t)(seconds * 1000) <= now;
}

static void on_upkeep(void *data) {
  pg_pool *self = data;
  self->upkeep = NULL;
  uint64_t now = uv_now(&self->loop->uv);
  for (size_t i = self->count; i-- > 0;) {
    if (i >= self->count) continue;
    pg_conn *c = self->conns[i];
    if (!pg_conn_available(c) || !pg_conn_quiet(c)) continue;
    bool rested = is_due(c->idle_ms, self->options.idle_timeout, now) &&
                  self->count > self->options.min_connections;
    uint64_t alive = c->pinged_ms > c->idle_ms ? c->pinged_ms : c->idle_ms;
    if (rested || now >= c->expires_ms)
      pg_conn_close(c, PG_OUTCOME_CLOSED, "it was idle");
    else if (is_due(alive, self->options.ping_after, now))
      ping(self, c, now);
  }
  if (self->count > 0) pg_pool_watch_idle(self);
}

void pg_pool_watch_idle(pg_pool *self) {
  if (self->upkeep != NULL || self->closed) return;
  double idle = self->options.idle_timeout / 2, rest = self->options.ping_after / 2;
  double every = EVERY_MOST;
  if (idle > 0 && idle < every) every = idle;
  if (rest > 0 && rest < every) every = rest;
  self->upkeep = loop_timer_start(self->loop, every < 0.1 ? 0.1 : every, on_upkeep, self);
}

/* ---- held connections ---- */

void pg_pool_report_leaks(pg_pool *self, double after, pg_leak_fn *leaked, void *data) {
  self->leak_after = after;
  self->leaked = leaked;
  self->leak_data = data;
}

static void on_leak_due(void *data) {
  pg_pool *self = data;
  self->leak_timer = NULL;
  uint64_t now = uv_now(&self->loop->uv);
  bool held = false;
  for (size_t i = 0; i < self->count; i++) {
    pg_conn *c = self->conns[i];
    if (!c->held || c->rolling || c->leak_told) continue;
    c->leak_told = is_due(c->held_ms, self->leak_after, now);
    held = held || !c->leak_told;
    if (c->leak_told && self->leaked != NULL)
      self->leaked(self->leak_data, c->where, (double)(now - c->held_ms) / 1000);
  }
  if (held) pg_pool_watch_leaks(self);
}

void pg_pool_watch_leaks(pg_pool *self) {
  if (self->leak_after <= 0 || self->leaked == NULL || self->leak_timer != NULL) return;
  double every = self->leak_after < 1 ? self->leak_after : self->leak_after / 4 + 0.75;
  self->leak_timer = loop_timer_start(self->loop, every + 0.001, on_leak_due, self);
}

/* ---- the size ---- */

#define ROOM                                                                                       \
  "SELECT least(current_setting('max_connections')::int"                                           \
  " - current_setting('superuser_reserved_connections')::int,"                                     \
  " nullif(r.rolconnlimit, -1), nullif(d.datconnlimit, -1))"                                       \
  " FROM pg_roles AS r, pg_database AS d"                                                          \
  " WHERE r.rolname = current_user AND d.datname = current_database()"

void pg_pool_warn(pg_pool *self, pg_warn_fn *warn, void *data) {
  self->warn = warn;
  self->warn_data = data;
}

static void warn_once(pg_pool *self, const char *text) {
  pg_warn_fn *warn = self->warn;
  self->warn = NULL;
  if (warn != NULL) warn(self->warn_data, text);
}

static void on_room(pg_request *r) {
  pg_pool *self = r->pool;
  if (r->outcome != PG_OUTCOME_OK || PQntuples(r->result) != 1) return;
  size_t room = (size_t)strtoul(PQgetvalue(r->result, 0, 0), NULL, 10);
  char text[200];
  if (room >= self->options.max_connections) return;
  snprintf(text, sizeof text,
           "the pool may open %zu connections, but the server has room for %zu of all its clients: "
           "lower max_connections (DATABASE_MAX_CONNECTIONS)",
           self->options.max_connections, room);
  warn_once(self, text);
}

void pg_pool_check_room(pg_pool *self, pg_conn *conn) {
  size_t most = self->options.max_connections;
  if (self->warn == NULL || self->asked_room || most < ROOM_SURE || self->count * 4 < most) return;
  self->asked_room = true;
  pg_request *r = pg_pool_internal_request(self, PG_REQUEST_EXECUTE, ROOM);
  if (r == NULL) return;
  r->abandoned = false;
  r->done = on_room;
  pg_conn_send(conn, r);
  pg_request_release(r);
}

void pg_pool_no_room(pg_pool *self) {
  char text[200];
  snprintf(text, sizeof text,
           "the server has no room for another connection: this pool has %zu of at most %zu; lower "
           "max_connections (DATABASE_MAX_CONNECTIONS), or raise the server's",
           self->count, self->options.max_connections);
  warn_once(self, text);
}

bool pg_pool_resize(pg_pool *self, size_t max_connections) {
  if (max_connections > self->room) {
    pg_conn **grown = realloc(self->conns, max_connections * sizeof *grown);
    if (grown == NULL) return false;
    self->conns = grown;
    self->room = max_connections;
  }
  self->options.max_connections = max_connections;
  if (self->options.min_connections > max_connections)
    self->options.min_connections = max_connections;
  for (size_t i = self->count; i-- > 0 && self->count > max_connections;) {
    if (i >= self->count) continue;
    pg_conn *c = self->conns[i];
    if (pg_conn_available(c) && pg_conn_quiet(c))
      pg_conn_close(c, PG_OUTCOME_CLOSED, "the pool became smaller");
  }
  loop_defer(self->loop, &self->pump);
  return true;
}

bool pg_pool_is_full(const pg_pool *self) {
  return self->options.max_waiting > 0 && self->waiting.count >= self->options.max_waiting;
}
