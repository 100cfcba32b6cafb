/* pool_cancel.c: cancelling a statement on a connection that is held alone.
 *
 * A cancel names a process, not a statement: it hits whatever that process runs when it arrives. So
 * it is sent only for a connection that carries one caller's work, and that connection sends
 * nothing more until the request has been answered and its own results are in. The request is a
 * pg_cancel_backend on a connection apart, opened when it is first needed: libpq's PQcancel would
 * block the loop. A cancel that arrives before its statement does is lost, so it is repeated until
 * the results are in. Where no answer comes in time, the connection is closed instead; and at once
 * behind a pooler, whose number of a session is no process of the server's, or somebody else's. */
#include "pg/pool_private.h"
#include <stdio.h>
#include <string.h>

#define CANCEL_SECONDS 5.0
#define AGAIN_SECONDS 0.02

static void send_cancel(pg_pool *self, pg_conn *conn);

pg_conn *pg_pool_find(const pg_pool *self, uint64_t serial) {
  for (size_t i = 0; i < self->count; i++)
    if (self->conns[i]->serial == serial) return self->conns[i];
  return NULL;
}

static void on_overdue(void *data) {
  pg_conn *conn = data;
  conn->timer = NULL;
  pg_conn_fail(conn, "the server is silent past a statement's deadline", NULL);
}

void pg_pool_watch_overdue(pg_pool *self, pg_conn *conn) {
  if (conn->timer == NULL)
    conn->timer = loop_timer_start(self->loop, CANCEL_SECONDS, on_overdue, conn);
}

/* What is overdue has been answered, or nothing is. */
static void settle_overdue(pg_conn *conn) {
  const pg_request *head = conn->sent.first;
  if (conn->cancelling || conn->timer == NULL || (head != NULL && head->finished)) return;
  loop_timer_stop(conn->loop, conn->timer);
  conn->timer = NULL;
}

void pg_pool_cancel_settle(pg_conn *conn) {
  settle_overdue(conn);
  if (!conn->cancelling || !conn->cancel_answered || conn->sent.count > 0) return;
  conn->cancelling = false;
  loop_timer_stop(conn->loop, conn->timer);
  loop_timer_stop(conn->loop, conn->again);
  conn->timer = conn->again = NULL;
  pg_conn_advance(conn);
}

static void on_again(void *data) {
  pg_conn *conn = data;
  conn->again = NULL;
  send_cancel(conn->pool, conn);
}

static void on_answer(pg_request *request) {
  pg_conn *conn = pg_pool_find(request->pool, request->tag[0]);
  if (conn == NULL || !conn->cancelling) return;
  if (request->outcome != PG_OUTCOME_OK) {
    pg_conn_close(conn, PG_OUTCOME_CLOSED, "its statement could not be cancelled");
    return;
  }
  conn->cancel_answered = true;
  if (conn->sent.count > 0) {
    conn->again = loop_timer_start(conn->loop, AGAIN_SECONDS, on_again, conn);
    return;
  }
  pg_pool_cancel_settle(conn);
  if (conn->state == PG_CONN_READY) conn->events->advanced(conn);
}

static bool is_same(const char *a, const char *b) {
  return strcmp(a != NULL ? a : "", b != NULL ? b : "") == 0;
}

/* Of several hosts each connection may have found another, where the number of the process is
 * somebody else's. */
static bool same_server(const pg_conn *a, const pg_conn *b) {
  return is_same(PQhost(a->pg), PQhost(b->pg)) && is_same(PQhostaddr(a->pg), PQhostaddr(b->pg)) &&
         is_same(PQport(a->pg), PQport(b->pg));
}

static void on_control_ready(pg_conn *conn) {
  const pg_pool *self = conn->pool;
  conn->expires_ms = UINT64_MAX;
  for (size_t i = 0; i < self->count; i++) {
    if (!self->conns[i]->cancelling || same_server(self->conns[i], conn)) continue;
    pg_conn_close(conn, PG_OUTCOME_CLOSED, "it reached another server");
    return;
  }
  pg_conn_advance(conn);
}

static void on_control_advanced(pg_conn *conn) {
  if (conn->pool->closed && pg_conn_quiet(conn))
    pg_conn_close(conn, PG_OUTCOME_CLOSED, "the pool was closed");
}

static void on_control_closed(pg_conn *conn) {
  pg_pool *self = conn->pool;
  self->control = NULL;
  pg_pool_release(self);
}

static const pg_conn_events CONTROL = {
    .ready = on_control_ready, .advanced = on_control_advanced, .closed = on_control_closed};

static pg_conn *control(pg_pool *self) {
  if (self->control != NULL) return self->control;
  self->control =
      pg_conn_open(self->loop, self->config, &CONTROL, self, CANCEL_SECONDS, 0, self->first_host);
  if (self->control != NULL) self->refs++;
  return self->control;
}

static void on_late(void *data) {
  pg_conn *conn = data;
  conn->timer = NULL;
  pg_conn_close(conn, PG_OUTCOME_CLOSED, "its statement could not be cancelled in time");
}

static void send_cancel(pg_pool *self, pg_conn *conn) {
  char sql[64];
  snprintf(sql, sizeof sql, "SELECT pg_cancel_backend(%d)", PQbackendPID(conn->pg));
  if (self->control != NULL && self->control->state == PG_CONN_READY &&
      !same_server(self->control, conn))
    pg_conn_close(self->control, PG_OUTCOME_CLOSED, "it is connected to another server");
  pg_conn *over = control(self);
  pg_request *r = over != NULL ? pg_pool_internal_request(self, PG_REQUEST_EXECUTE, sql) : NULL;
  if (r == NULL) {
    pg_conn_close(conn, PG_OUTCOME_CLOSED, "out of memory");
    return;
  }
  conn->cancel_answered = false;
  r->abandoned = false;
  r->done = on_answer;
  r->tag[0] = conn->serial;
  pg_conn_send(over, r);
  pg_request_release(r);
}

void pg_pool_cancel(pg_pool *self, pg_conn *conn) {
  if (conn->cancelling || conn->state != PG_CONN_READY || conn->sent.count == 0) return;
  if (self->options.statement_cache == 0) {
    pg_conn_close(conn, PG_OUTCOME_CLOSED, "a statement behind a pooler cannot be cancelled");
    return;
  }
  conn->cancelling = true;
  loop_timer_stop(self->loop, conn->timer);
  conn->timer = loop_timer_start(self->loop, CANCEL_SECONDS, on_late, conn);
  send_cancel(self, conn);
  if (conn->paused) pg_conn_resume(conn);
}
