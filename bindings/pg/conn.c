/* conn.c: requests go out, results come in. */
#include "pg/conn.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pg/hold.h"
#include "pg/pool.h"

/* What is pipelined behind a request that is not answered: a copy of it stands in libpq's buffer.
 * A request that is longer goes alone. */
enum { IN_FLIGHT_MOST = 1 << 20 };

bool pg_conn_quiet(const pg_conn *self) {
  return self->state == PG_CONN_READY && self->sent.count == 0 && self->pending.count == 0;
}

bool pg_conn_is_streaming(const pg_conn *self) {
  for (const pg_request *r = self->sent.first; r != NULL; r = r->next)
    if (r->streaming && !r->gathered && !r->abandoned && !r->finished) return true;
  const pg_request *next = self->pending.first;
  return next != NULL && next->streaming && !next->gathered;
}

bool pg_conn_settled(const pg_conn *self) {
  return PQtransactionStatus(self->pg) == PQTRANS_IDLE;
}

/* Ends a request and gives up the connection's reference. */
static void retire(pg_request *r, pg_outcome outcome, const char *message) {
  if (r->queue != NULL) pg_queue_remove(r);
  r->conn = NULL;
  pg_request_finish(r, outcome, message);
  pg_request_release(r);
}

/* What became of a request whose segment has not ended. A statement's own answer comes before its
 * Sync, at which the server commits: then the session's last words do not say that it was undone.
 * COMMIT alone has committed when it answers. */
static pg_outcome outcome_of_loss(const pg_request *r) {
  bool error = r->result != NULL && PQresultStatus(r->result) == PGRES_FATAL_ERROR;
  bool answered = r->result != NULL && !error;
  /* libpq's own word for a broken connection has no SQLSTATE. */
  if (error && PQresultErrorField(r->result, PG_DIAG_SQLSTATE) != NULL) return PG_OUTCOME_ERROR;
  if (answered && strcmp(PQcmdStatus(r->result), "COMMIT") == 0) return PG_OUTCOME_OK;
  bool changes = r->statement != NULL && r->statement->scan.kind != PG_CLASS_READ &&
                 r->kind != PG_REQUEST_DESCRIBE && !r->inside;
  return changes && (answered || !r->fatal_seen) ? PG_OUTCOME_UNKNOWN : PG_OUTCOME_LOST;
}

static void answer_all(pg_conn *self, pg_outcome outcome, const char *message) {
  bool fatal = false;
  while (self->sent.first != NULL) {
    pg_request *r = self->sent.first;
    r->fatal_seen = fatal = fatal || r->fatal_seen;
    retire(r, outcome == PG_OUTCOME_LOST ? outcome_of_loss(r) : outcome, message);
  }
  while (self->pending.first != NULL)
    retire(self->pending.first, outcome, message);
}

static void shut(pg_conn *self, pg_outcome outcome, const char *message) {
  self->state = PG_CONN_CLOSED;
  loop_timer_stop(self->loop, self->timer);
  loop_timer_stop(self->loop, self->again);
  self->timer = self->again = NULL;
  loop_defer_cancel(self->loop, &self->flush);
  pg_conn_unwatch(self);
  answer_all(self, outcome, message);
  PQfinish(self->pg);
  self->pg = NULL;
  if (self->resolving) uv_cancel((uv_req_t *)&self->resolver);
  self->events->closed(self);
  loop_defer(self->loop, &self->reap);
}

void pg_conn_close(pg_conn *self, pg_outcome outcome, const char *message) {
  if (self->state == PG_CONN_CLOSED) return;
  shut(self, outcome, message);
}

/* libpq's message on one line, without its hints ("Is the server running ...?"): they begin with a
 * tab. */
static void note_error(pg_conn *self, const char *message) {
  size_t n = 0;
  for (const char *p = message; *p != '\0' && n + 1 < sizeof self->error; p++) {
    if (p[0] == '\n' && p[1] == '\t')
      p += strcspn(p + 1, "\n"); // the loop steps over the last of it
    else
      self->error[n++] = *p == '\n' || *p == '\t' ? ' ' : *p;
  }
  while (n > 0 && self->error[n - 1] == ' ')
    n--;
  self->error[n] = '\0';
}

void pg_conn_fail(pg_conn *self, const char *message, const PGresult *result) {
  if (self->state == PG_CONN_CLOSED) return;
  const char *code = result != NULL ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
  if (code != NULL) snprintf(self->code, sizeof self->code, "%s", code);
  if (message != NULL) note_error(self, message);
  self->lost = true;
  shut(self, PG_OUTCOME_LOST, self->error);
}

/* Sends DEALLOCATE as a segment of its own, for a statement that left the cache. Nobody waits. */
static bool send_deallocate(pg_conn *self, uint32_t name) {
  char sql[48];
  snprintf(sql, sizeof sql, "DEALLOCATE %s", pg_statement_name(name).text);
  pg_request *r = pg_pool_internal_request(self->pool, PG_REQUEST_EXECUTE, sql);
  if (r == NULL) return false;
  r->conn = self;
  if (!PQsendQueryParams(self->pg, sql, 0, NULL, NULL, NULL, NULL, 0) || !pg_hold_sync(self->pg)) {
    pg_request_release(r);
    return false;
  }
  r->sent_ns = uv_hrtime();
  pg_queue_push(&self->sent, r);
  return true;
}

typedef enum naming { UNNAMED, NAMED, NEW, NO_MEMORY } naming;

/* Finds the statement in the connection's cache, or makes room for it; sets the request's name. */
static naming name_statement(pg_conn *self, pg_request *r) {
  const pg_statement *s = r->statement;
  uint32_t evicted = 0, stale = r->stale;
  r->binary = false;
  r->stale = 0;
  if (stale != 0 && !send_deallocate(self, stale)) return NO_MEMORY;
  /* A text without parameters is worth a prepared statement at its second sight. */
  bool worth = s->scan.kind <= PG_CLASS_WRITE && (r->nparams > 0 || s->calls > 0 || s->described);
  if (r->kind != PG_REQUEST_DESCRIBE && !worth && r->nparams == 0) return UNNAMED;
  /* A second try brings its own Parse: a neighbour's may be stale again before this one runs. */
  if (self->prepared == NULL || r->unprepared || r->retried) return UNNAMED;
  const pg_prepared_entry *entry = pg_prepared_find(self->prepared, s);
  naming how = entry != NULL ? NAMED : NEW;
  if (entry == NULL) entry = pg_prepared_add(self->prepared, r->statement, &evicted);
  if (entry == NULL) return NO_MEMORY;
  r->name = entry->name;
  r->binary = entry->binary;
  return evicted == 0 || send_deallocate(self, evicted) ? how : NO_MEMORY;
}

static int send_prelude(pg_conn *self, pg_request *r) {
  for (char *at = self->begin, *next; *at != '\0'; at = next) {
    next = at + strcspn(at, ";");
    if (*next == ';') *next++ = '\0';
    r->skip++;
    if (!PQsendQueryParams(self->pg, at, 0, NULL, NULL, NULL, NULL, 0)) return 0;
  }
  self->begin[0] = '\0';
  if (r->timeout > 0 && !self->held) {
    char sql[96];
    snprintf(sql, sizeof sql, "SELECT set_config('statement_timeout', '%.0f', true)",
             r->timeout * 1000 < 1 ? 1 : r->timeout * 1000);
    r->skip++;
    return PQsendQueryParams(self->pg, sql, 0, NULL, NULL, NULL, NULL, 0);
  }
  return 1;
}

static int send_statement(pg_conn *self, pg_request *r, naming how) {
  const pg_statement *s = r->statement;
  pg_name name = pg_statement_name(r->name);
  bool describe = r->kind == PG_REQUEST_DESCRIBE;
  if (how == NEW || (how == UNNAMED && describe)) {
    r->parse_step = r->skip++;
    if (!PQsendPrepare(self->pg, name.text, s->text, 0, NULL)) return 0;
  }
  if (describe) return PQsendDescribePrepared(self->pg, name.text);
  if (how == UNNAMED)
    return PQsendQueryParams(self->pg, s->text, r->nparams, NULL, r->values, r->lengths, r->formats,
                             r->binary);
  return PQsendQueryPrepared(self->pg, name.text, r->nparams, r->values, r->lengths, r->formats,
                             r->binary);
}

/* One segment: what goes ahead, the statement, a Sync. */
static bool send_segment(pg_conn *self, pg_request *r) {
  naming how = name_statement(self, r);
  return how != NO_MEMORY && send_prelude(self, r) && send_statement(self, r, how) &&
         pg_hold_sync(self->pg);
}

/* Puts one request on the wire. False where libpq refuses: the connection is done for. */
static bool send_one(pg_conn *self, pg_request *r) {
  bool simple = r->kind == PG_REQUEST_SCRIPT || r->kind == PG_REQUEST_COPY;
  if (simple == self->pipeline) {
    int switched = simple ? PQexitPipelineMode(self->pg) : PQenterPipelineMode(self->pg);
    if (!switched) return false;
    self->pipeline = !simple;
  }
  r->seen = r->skip = 0;
  r->parse_step = -1;
  r->name = 0;
  r->sent_ns = uv_hrtime();
  r->serial = self->serial;
  if (r->dirties) self->dirty = true;
  if (self->prepared != NULL && !r->abandoned && r->statement->scan.forgets)
    pg_prepared_clear(self->prepared);
  bool sent = false;
  switch (r->kind) {
  case PG_REQUEST_EXECUTE:
  case PG_REQUEST_DESCRIBE: sent = send_segment(self, r); break;
  case PG_REQUEST_SCRIPT:
  case PG_REQUEST_COPY: sent = PQsendQuery(self->pg, r->statement->text); break;
  case PG_REQUEST_ACQUIRE: break;
  }
  if (sent && r->streaming && self->sent.count == 0) PQsetSingleRowMode(self->pg);
  return sent;
}

static bool may_send(const pg_conn *self, const pg_request *r) {
  bool simple = r->kind == PG_REQUEST_SCRIPT || r->kind == PG_REQUEST_COPY;
  if (self->cancelling) return false;
  if (self->sent.count == 0) return true;
  if (self->in_flight + r->size > IN_FLIGHT_MOST) return false;
  return !simple && self->pipeline && !r->streaming && !self->sent.last->streaming;
}

void pg_conn_advance(pg_conn *self) {
  if (self->state != PG_CONN_READY) return;
  while (self->pending.first != NULL && may_send(self, self->pending.first)) {
    pg_request *r = self->pending.first;
    if (!send_one(self, r)) {
      char why[160];
      snprintf(why, sizeof why, "%s", PQerrorMessage(self->pg));
      pg_conn_fail(self, why, NULL);
      return;
    }
    pg_queue_remove(r);
    pg_queue_push(&self->sent, r);
    self->in_flight += r->size;
  }
  loop_defer(self->loop, &self->flush);
}

void pg_conn_send(pg_conn *self, pg_request *request) {
  request->refs++;
  request->conn = self;
  request->size = pg_request_measure(request);
  if (self->begin[0] != '\0' &&
      (request->kind == PG_REQUEST_SCRIPT || request->kind == PG_REQUEST_COPY)) {
    /* The simple protocol has no segment to put a BEGIN into: it goes ahead as its own. */
    pg_request *first = pg_pool_internal_request(self->pool, PG_REQUEST_SCRIPT, self->begin);
    self->begin[0] = '\0';
    if (first == NULL) {
      retire(request, PG_OUTCOME_MEMORY, NULL);
      return;
    }
    first->conn = self;
    pg_queue_push(&self->pending, first);
  }
  pg_queue_push(&self->pending, request);
  pg_conn_advance(self);
}
