/* pool_conns.c: opening connections, losing them, letting them rest, and who waits too long. */
#include "pg/listen.h"
#include "pg/pool_private.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a session may have changed, but for its prepared statements. */
#define RECYCLE                                                                                    \
  "ROLLBACK; RESET ALL; UNLISTEN *; CLOSE ALL; SELECT pg_advisory_unlock_all(); DISCARD TEMP"

/* What config.c gives in the startup packet, where a pooler in between does not take it. */
#define PIN                                                                                        \
  "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; "             \
  "SET bytea_output = 'hex'; SET extra_float_digits = 1"

/* The longest that one of several hosts may be silent. */
#define HOST_SECONDS 5.0

static void on_retry(void *data) {
  pg_pool *self = data;
  self->retry = NULL;
  pg_pool_pump(self);
}

void pg_pool_fail_waiting(pg_pool *self, pg_outcome outcome, const char *message) {
  while (self->waiting.first != NULL) {
    pg_request *r = self->waiting.first;
    pg_pool_leave_queue(self, r);
    pg_request_finish(r, outcome, message);
    pg_request_release(r);
  }
}

/* No use to try again before somebody changes something: a password, a name, a right. */
static bool is_final(const char *code) {
  return strncmp(code, "28", 2) == 0 || strcmp(code, "3D000") == 0 || strcmp(code, "42501") == 0;
}

/* Doubles the pause to about the time that a ready server may be left unused. Connections that
 * fail together count once. */
static void back_off(pg_pool *self) {
  uint64_t now = uv_now(&self->loop->uv);
  if (now < self->grow_after_ms) return;
  /* A server that ended this one session takes the next one at once. */
  bool ended = strcmp(self->code, "57P01") == 0;
  unsigned most = is_final(self->code) ? 8 : 5;
  double seconds = 0.02 * (double)(1u << (ended                   ? 0
                                          : self->failures < most ? self->failures
                                                                  : most));
  seconds *= 0.75 + (double)(uv_hrtime() % 1000) / 2000;
  self->failures++;
  self->grow_after_ms = now + (uint64_t)(seconds * 1000);
  loop_timer_stop(self->loop, self->retry);
  self->retry = loop_timer_start(self->loop, seconds + 0.001, on_retry, self);
}

/* Verbose messages read "FATAL:  28P01: password authentication failed ...". */
void pg_pool_note_failure(pg_pool *self, const char *text) {
  self->code[0] = '\0';
  const char *body = text;
  for (const char *p = strstr(text, ":  "); p != NULL; p = strstr(p + 1, ":  ")) {
    size_t n = 0;
    while (n < 5 && (isdigit((unsigned char)p[3 + n]) || isupper((unsigned char)p[3 + n])))
      n++;
    if (n < 5 || p[8] != ':') continue;
    memcpy(self->code, p + 3, 5);
    self->code[5] = '\0';
    body = p + 9;
    while (*body == ' ')
      body++;
  }
  const char *end = strstr(body, " LOCATION: ");
  size_t length = end != NULL ? (size_t)(end - body) : strlen(body);
  while (length > 0 && body[length - 1] == ' ')
    length--;
  bool hint = self->code[0] == '\0' && pg_config_verifies_by_default(self->config);
  snprintf(self->error, sizeof self->error, "cannot connect to %s: %.*s%s",
           pg_config_place(self->config), (int)(length < 180 ? length : 180), body,
           hint ? "; off this machine TLS is verified (sslmode=verify-full), unless the URL says "
                  "otherwise: sslrootcert= names the authority, sslmode= the mode"
                : "");
}

static void connect_failed(pg_pool *self, const pg_conn *conn) {
  self->stats.failed++;
  pg_pool_note_failure(self, conn->error);
  if (strcmp(self->code, "53300") == 0) pg_pool_no_room(self);
  back_off(self);
  size_t hosts = pg_config_hosts(self->config);
  if (conn->unanswered) self->first_host = (conn->first_host + 1) % hosts;
  bool others = conn->unanswered && self->failures < hosts;
  bool never = !self->connected_once && self->code[0] == '\0' && !others;
  bool hopeless = is_final(self->code) || never;
  if (hopeless && self->connecting == 0 && self->count == 0)
    pg_pool_fail_waiting(self, PG_OUTCOME_CONNECT, self->error);
}

static void on_recycled(pg_request *request) {
  pg_conn *conn = pg_pool_find(request->pool, request->tag[0]);
  if (conn != NULL && request->outcome != PG_OUTCOME_OK) conn->evict = true;
}

/* The pool's own request; nobody gets the connection before it has ended. Takes it over. */
static void run_own(pg_conn *conn, pg_request *r) {
  if (r == NULL) {
    pg_conn_close(conn, PG_OUTCOME_CLOSED, "out of memory");
    return;
  }
  conn->held = conn->rolling = true;
  r->abandoned = false;
  r->done = on_recycled;
  r->tag[0] = conn->serial;
  pg_conn_send(conn, r);
  pg_request_release(r);
}

/* Ends what may be open in the session, and undoes what it has changed, before it is given out
 * again. A session that refuses is closed. */
static void recycle(pg_pool *self, pg_conn *conn) {
  bool pinned = self->options.statement_cache > 0;
  const char *sql = pinned ? RECYCLE : RECYCLE "; " PIN;
  pg_request *r = conn->dirty ? pg_pool_internal_request(self, PG_REQUEST_SCRIPT, sql)
                              : pg_pool_internal_request(self, PG_REQUEST_EXECUTE, "ROLLBACK");
  run_own(conn, r);
}

/* A connection of a pool without a statement cache gets its settings before anything else. */
static void pin(pg_pool *self, pg_conn *conn) {
  run_own(conn, pg_pool_internal_request(self, PG_REQUEST_SCRIPT, PIN));
}

static void on_conn_ready(pg_conn *conn) {
  pg_pool *self = conn->pool;
  self->connecting--;
  self->failures = 0;
  self->connected_once = true;
  self->stats.opened++;
  conn->idle_ms = uv_now(&self->loop->uv);
  double life = self->options.max_lifetime * (0.9 + (double)(uv_hrtime() % 1000) / 5000);
  conn->expires_ms = life > 0 ? conn->idle_ms + (uint64_t)(life * 1000) : UINT64_MAX;
  if (self->closed) {
    pg_conn_close(conn, PG_OUTCOME_CLOSED, "the pool was closed");
    return;
  }
  if (self->options.statement_cache == 0)
    pin(self, conn);
  else
    pg_pool_check_room(self, conn);
  pg_pool_pump(self);
}

/* A quiet connection that nobody holds: keep it, or let it go. */
static void settle(pg_pool *self, pg_conn *conn) {
  uint64_t now = uv_now(&self->loop->uv);
  bool spare = self->count > self->options.max_connections; /* it became smaller */
  if (self->closed || conn->evict || spare || now >= conn->expires_ms || !pg_conn_settled(conn)) {
    pg_conn_close(conn, PG_OUTCOME_CLOSED, "it is not used again");
    return;
  }
  if (conn->dirty) {
    recycle(self, conn);
    return;
  }
  if (!conn->pinging) conn->idle_ms = now;
  conn->pinging = false;
  pg_pool_watch_idle(self);
}

static void on_conn_advanced(pg_conn *conn) {
  pg_pool *self = conn->pool;
  pg_pool_cancel_settle(conn);
  if (conn->cancelling || conn->state != PG_CONN_READY) return;
  if (pg_conn_quiet(conn) && conn->rolling) {
    conn->rolling = conn->dirty = false;
    conn->held = false;
  }
  if (pg_conn_quiet(conn) && !conn->held) settle(self, conn);
  if (self->waiting.first != NULL) pg_pool_pump(self);
}

static void on_conn_closed(pg_conn *conn) {
  pg_pool *self = conn->pool;
  size_t i = conn->index;
  self->conns[i] = self->conns[--self->count];
  self->conns[i]->index = i;
  self->conns[self->count] = NULL;
  if (conn->reserved) self->reserved--;
  if (conn->held_by != NULL) *conn->held_by = NULL;
  if (conn->expires_ms == 0) {
    self->connecting--;
    if (conn->lost) connect_failed(self, conn);
  } else {
    self->stats.closed++;
  }
  if (!self->closed) loop_defer(self->loop, &self->pump);
  pg_pool_release(self);
}

static const pg_conn_events EVENTS = {
    .ready = on_conn_ready, .advanced = on_conn_advanced, .closed = on_conn_closed};

/* Where there are other hosts, a silent one is left soon: libpq, which does not block here, tries
 * the next only after one that answers. */
static double connect_seconds(const pg_pool *self) {
  double limit = self->options.connection_timeout;
  size_t hosts = pg_config_hosts(self->config);
  if (hosts == 1) return limit;
  double each = limit / (double)hosts;
  return each < HOST_SECONDS ? each : HOST_SECONDS;
}

void pg_pool_grow(pg_pool *self) {
  while ((self->connecting < self->waiting.count || self->count < self->options.min_connections) &&
         pg_pool_can_grow(self)) {
    pg_conn *conn = pg_conn_open(self->loop, self->config, &EVENTS, self, connect_seconds(self),
                                 self->options.statement_cache, self->first_host);
    if (conn == NULL) { /* those who wait are not forgotten */
      pg_pool_note_failure(self, "out of memory");
      back_off(self);
      return;
    }
    self->refs++;
    conn->index = self->count;
    conn->serial = ++self->last_serial;
    self->conns[self->count++] = conn;
    self->connecting++;
  }
}

void pg_pool_give_back(pg_pool *self, pg_conn *conn) {
  if (conn->state != PG_CONN_READY) return;
  conn->begin[0] = '\0';
  if (conn->held_by != NULL) *conn->held_by = NULL;
  conn->held_by = NULL;
  conn->holder = 0;
  bool busy = !pg_conn_quiet(conn);
  if (busy) pg_pool_cancel(self, conn);
  if (conn->state != PG_CONN_READY) return;
  if (busy || conn->dirty || !pg_conn_settled(conn)) {
    recycle(self, conn);
    return;
  }
  conn->held = false;
  settle(self, conn);
  if (self->waiting.first != NULL) loop_defer(self->loop, &self->pump);
}

static void explain_wait(const pg_pool *self, char *text, size_t size) {
  char holders[300];
  pg_pool_holders(self, holders, sizeof holders);
  double limit = self->options.connection_timeout;
  if (holders[0] != '\0')
    snprintf(text, size,
             "no connection became free in %g s; held by %s; raise max_connections (%zu) or hold "
             "them for less time",
             limit, holders, self->options.max_connections);
  else if (self->count == self->connecting && self->error[0] != '\0')
    snprintf(text, size, "no connection in %g s: %s", limit, self->error);
  else if (self->count == self->connecting)
    snprintf(text, size, "no connection in %g s: cannot connect to %s: it has not answered yet",
             limit, pg_config_place(self->config));
  else
    snprintf(text, size,
             "no connection became free in %g s; all %zu run statements, %zu callers wait", limit,
             self->options.max_connections, self->waiting.count);
}

static void on_expiry(void *data) {
  pg_pool *self = data;
  self->expiry = NULL;
  uint64_t limit = (uint64_t)(self->options.connection_timeout * 1000),
           now = uv_now(&self->loop->uv);
  char text[600];
  explain_wait(self, text, sizeof text);
  while (self->waiting.first != NULL && self->waiting.first->queued_ms + limit <= now) {
    pg_request *r = self->waiting.first;
    pg_pool_leave_queue(self, r);
    self->stats.timeouts++;
    pg_request_finish(r, PG_OUTCOME_WAITED, text);
    pg_request_release(r);
  }
  pg_pool_watch_waiting(self);
}

void pg_pool_watch_waiting(pg_pool *self) {
  if (self->waiting.first == NULL) {
    loop_timer_stop(self->loop, self->expiry);
    self->expiry = NULL;
    return;
  }
  if (self->expiry != NULL) return;
  uint64_t limit = (uint64_t)(self->options.connection_timeout * 1000),
           now = uv_now(&self->loop->uv);
  uint64_t due = self->waiting.first->queued_ms + limit;
  double seconds = due > now ? (double)(due - now) / 1000 : 0;
  self->expiry = loop_timer_start(self->loop, seconds, on_expiry, self);
}

void pg_pool_close(pg_pool *self, bool now) {
  self->refs++;
  self->closed = true;
  pg_pool_fail_waiting(self, PG_OUTCOME_CLOSED, "the pool was closed");
  pg_listener_close(self->listener);
  pg_pool_watch_waiting(self);
  loop_timer_stop(self->loop, self->retry);
  loop_timer_stop(self->loop, self->upkeep);
  loop_timer_stop(self->loop, self->leak_timer);
  self->retry = self->upkeep = self->leak_timer = NULL;
  for (size_t i = self->count; i-- > 0;) {
    if (i >= self->count) continue;
    pg_conn *c = self->conns[i];
    if (now || c->state != PG_CONN_READY || (!c->held && pg_conn_quiet(c)))
      pg_conn_close(c, PG_OUTCOME_CLOSED, "the pool was closed");
  }
  if (self->control != NULL && (now || pg_conn_quiet(self->control)))
    pg_conn_close(self->control, PG_OUTCOME_CLOSED, "the pool was closed");
  pg_pool_release(self);
}
