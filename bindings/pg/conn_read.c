/* conn_read.c: what the server answers, given to the request it belongs to. */
#include "pg/conn.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include "pg/binary.h"
#include "pg/copy.h"
#include "pg/pool.h"

/* What is still read of a result that passed its limit, before the connection is closed instead. */
enum { DRAIN_MAX = 4 << 20 };

/* What an empty result takes in libpq. */
enum { RESULT_ALONE = 8192 };

/* See consume: what libpq keeps free in its buffer, and what may come to a caller that is none. */
enum { LEAST_READ = 8192, MESSAGE_LONG = 64 << 10, UNASKED_MAX = 1 << 20 };

static const char *sqlstate(const PGresult *result) {
  const char *code = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  return code != NULL ? code : "";
}

/* The server refused before it ran anything, because its plan or its name for the statement is
 * gone. */
static bool is_stale(const PGresult *error) {
  const char *code = sqlstate(error);
  if (strcmp(code, "26000") == 0) return true;
  const char *routine = PQresultErrorField(error, PG_DIAG_SOURCE_FUNCTION);
  return strcmp(code, "0A000") == 0 && routine != NULL &&
         strcmp(routine, "RevalidateCachedQuery") == 0;
}

/* Worth one more try with a fresh Parse, unless a transaction was aborted by it, or what its caller
 * sent after it would come first. A caller who turned away has taken its parameters along. */
static bool may_retry(const pg_conn *self, const pg_request *r) {
  bool last = self->sent.count == 0 && self->pending.count == 0;
  return !r->retried && !r->abandoned && !r->finished && r->name != 0 && r->result != NULL &&
         (!self->held || (last && pg_conn_settled(self))) && is_stale(r->result);
}

/* Whether the session should not be used again after such an error. */
static bool evicts(const char *code) {
  return strncmp(code, "08", 2) == 0 || strncmp(code, "57P0", 4) == 0 || strcmp(code, "25006") == 0;
}

static void note_error(pg_conn *self, pg_request *r, PGresult *result) {
  if (r->fatal_seen) { /* what libpq makes of the end says less than the server's last word */
    PQclear(result);
    return;
  }
  bool unparsed = r->parse_step >= 0 && r->seen <= r->parse_step + 1;
  if (r->name != 0 && (unparsed || is_stale(result)))
    pg_prepared_forget(self->prepared, r->statement, r->name);
  const char *code = sqlstate(result);
  /* 25006 from a transaction that was made read-only says nothing about the server. */
  if (evicts(code) && (strcmp(code, "25006") != 0 || !pg_pool_is_read_only(self->pool)))
    self->evict = true;
  const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
  if (severity != NULL && strcmp(severity, "FATAL") == 0) {
    const char *said = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    r->fatal_seen = true;
    snprintf(self->error, sizeof self->error, "%s", said != NULL ? said : "");
  }
  /* Of the end of a session the answer before it tells more: see outcome_of_loss. */
  bool answered = r->result != NULL && (r->fatal_seen || *code == '\0');
  if (r->finished || answered) {
    PQclear(result);
    return;
  }
  PQclear(r->result);
  r->result = result;
}

static bool is_error(const PGresult *result) {
  return result != NULL && PQresultStatus(result) == PGRES_FATAL_ERROR;
}

/* libpq reads as long as the server writes, so a result may be whole before anybody could count. */
static bool is_too_large(const pg_request *r, const PGresult *result) {
  return r->max_bytes > 0 && PQresultMemorySize(result) > r->max_bytes + RESULT_ALONE;
}

/* False where the connection was closed, because too much would have to be read and dropped. */
static bool end_over_limit(pg_conn *self, pg_request *r) {
  if (r->bytes <= r->max_bytes) return true;
  pg_request_finish(r, PG_OUTCOME_LIMIT, NULL);
  if (r->bytes <= r->max_bytes + DRAIN_MAX) return true;
  pg_conn_fail(self, "a result passed its limit and was too long to read to its end", NULL);
  return false;
}

/* Counts a row against the limit of the whole. False where the connection was closed. */
static bool count_row(pg_conn *self, pg_request *r, const PGresult *row) {
  for (int i = 0, n = PQnfields(row); i < n; i++)
    r->bytes += (size_t)PQgetlength(row, 0, i) + sizeof(uint32_t);
  return end_over_limit(self, r);
}

/* Hands a row over, or drops it where its caller has enough. Takes it over. */
static void take_row(pg_conn *self, pg_request *r, PGresult *row) {
  if (r->gathered && r->max_bytes > 0 && !count_row(self, r, row)) {
    PQclear(row);
    return;
  }
  bool wanted = r->streaming && !r->finished && !r->abandoned;
  if (wanted && pg_request_add_row(r, row)) return;
  PQclear(row);
  if (wanted) pg_request_finish(r, PG_OUTCOME_MEMORY, NULL);
}

/* One result, in the order of the segment's steps. Takes it over. */
static void take_result(pg_conn *self, pg_request *r, PGresult *result) {
  ExecStatusType status = PQresultStatus(result);
  bool own = r->seen >= r->skip; /* not of what went ahead of it */
  if (own && is_too_large(r, result)) pg_request_finish(r, PG_OUTCOME_LIMIT, NULL);
  if (status == PGRES_SINGLE_TUPLE && own) {
    take_row(self, r, result);
    return;
  }
  if (status == PGRES_SINGLE_TUPLE) {
    PQclear(result);
    return;
  }
  if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH) {
    bool expected = r->copy != NULL && !r->copy->started && status != PGRES_COPY_BOTH;
    if (expected) pg_copy_start(r, result);
    PQclear(result);
    if (expected) return;
    pg_conn_fail(self, "COPY needs copy_in or copy_out; the connection was closed", NULL);
    return;
  }
  int step = r->seen++;
  if (own && r->parse_step >= 0 && r->name != 0 && !is_error(result))
    pg_prepared_learn(self->prepared, r->statement, r->name,
                      pg_binary_pays(result, pg_pool_text_types(self->pool)));
  if (status == PGRES_FATAL_ERROR || status == PGRES_BAD_RESPONSE) {
    note_error(self, r, result);
    return;
  }
  bool keep =
      step >= r->skip && status != PGRES_PIPELINE_ABORTED && !r->finished && !is_error(r->result);
  if (!keep) {
    PQclear(result);
    return;
  }
  PQclear(r->result);
  r->result = result;
}

static uint64_t affected(PGresult *result) {
  return result == NULL ? 0 : strtoull(PQcmdTuples(result), NULL, 10);
}

static void time_it(pg_conn *self, pg_request *r) {
  uint64_t now = uv_hrtime();
  uint64_t from = r->sent_ns > self->settled_ns ? r->sent_ns : self->settled_ns;
  self->settled_ns = now;
  r->took_ns = now - from;
  size_t returned = r->rows_seen + (size_t)PQntuples(r->result);
  if (r->kind != PG_REQUEST_DESCRIBE)
    pg_tally_add(&r->statement->tally, (double)(now - from) / 1e9,
                 returned > 0 ? returned : affected(r->result),
                 is_error(r->result) || r->outcome != PG_OUTCOME_OK);
  if (r->kind == PG_REQUEST_EXECUTE)
    pg_statement_ran(r->statement, (double)(now - from) / 1000, returned);
}

/* The head's last result is in. */
static void end_head(pg_conn *self) {
  pg_request *r = self->sent.first;
  pg_queue_remove(r);
  self->in_flight -= r->size;
  if (may_retry(self, r)) {
    r->stale = r->name;
    r->statement->described = r->nparams > 0 && r->statement->described;
    PQclear(r->result);
    r->result = NULL;
    r->retried = true;
    pg_queue_push_front(&self->pending, r);
    return;
  }
  time_it(self, r);
  if (r->kind == PG_REQUEST_DESCRIBE && r->result != NULL && !is_error(r->result) &&
      !pg_statement_describe(r->statement, r->result))
    pg_request_finish(r, PG_OUTCOME_MEMORY, NULL);
  pg_outcome outcome = is_error(r->result) ? PG_OUTCOME_ERROR : PG_OUTCOME_OK;
  /* libpq knows the state only of a connection on which nothing is under way. */
  if (!self->held && self->sent.count == 0 && self->pending.count == 0 && !pg_conn_settled(self)) {
    snprintf(self->error, sizeof self->error, "a statement left a transaction open: %.80s",
             r->statement->text);
    self->evict = true;
    outcome = PG_OUTCOME_UNKNOWN;
  }
  r->conn = NULL;
  pg_request_finish(r, outcome, outcome == PG_OUTCOME_UNKNOWN ? self->error : NULL);
  pg_request_release(r);
}

static size_t waiting_bytes(const pg_conn *self) {
  int waiting = 0;
  return ioctl(PQsocket(self->pg), FIONREAD, &waiting) == 0 && waiting > 0 ? (size_t)waiting : 0;
}

/* The most that libpq may gather for one caller: a whole result, or one row of a stream; without a
 * caller, what the server says unasked. */
static size_t limit_of(const pg_conn *self, const pg_request *r) {
  if (r == NULL) return UNASKED_MAX;
  return r->max_bytes > 0 ? r->max_bytes : pg_pool_options_get(self->pool)->max_bytes;
}

/* Has libpq read, and counts how much, about: between the two looks at the socket more may have
 * come, but libpq always has room for LEAST_READ. A statement's first read is not counted, so that
 * a short one costs no look. */
static bool consume(pg_conn *self) {
  pg_request *r = self->sent.first;
  bool whole = r != NULL && !r->streaming && r->copy == NULL;
  if (whole && r->bytes++ == 0) return PQconsumeInput(self->pg) == 1;
  size_t before = waiting_bytes(self);
  if (PQconsumeInput(self->pg) != 1) return false;
  size_t after = waiting_bytes(self), least = before < LEAST_READ ? before : LEAST_READ;
  size_t read = before > after + least ? before - after : least;
  self->gathered += !whole && self->gathered > MESSAGE_LONG ? before : read;
  if (whole) r->bytes += read;
  return true;
}

/* False where the connection was closed, because more came than one caller may have. */
static bool within_limit(pg_conn *self) {
  pg_request *r = self->sent.first;
  bool whole = r != NULL && !r->streaming && r->copy == NULL;
  size_t limit = limit_of(self, r), have = whole ? r->bytes : self->gathered;
  if (limit == 0 || have <= limit) return true;
  if (r != NULL) pg_request_finish(r, PG_OUTCOME_LIMIT, NULL);
  if (whole && have <= limit + DRAIN_MAX) return true;
  pg_conn_fail(self, "the server sent more than one answer or message may have", NULL);
  return false;
}

static void pause_if_full(pg_conn *self, const pg_request *r) {
  if (!r->streaming || r->rows_count < PG_REQUEST_ROWS || r->finished || r->abandoned) return;
  self->paused = true;
  pg_conn_watch(self, 0);
}

static void tell_reader(pg_request *r) {
  if (!r->streaming || !r->wanted || r->rows_count == 0 || r->abandoned) return;
  r->wanted = false;
  r->done(r);
}

static bool is_copying(const pg_request *r) {
  return r->copy != NULL && r->copy->started && !r->copy->ended;
}

/* Takes what libpq can give without waiting. False where the connection broke. */
static bool drain(pg_conn *self) {
  int nulls = 0;
  while (self->sent.first != NULL && !self->paused) {
    pg_request *r = self->sent.first;
    if (is_copying(r)) {
      /* What the server says while data go in is read once they have ended. */
      int more = r->copy->in ? 0 : pg_copy_read(self, r);
      if (more < 0) return false;
      if (r->copy->data.length > 0) self->gathered = 0;
      if (r->copy->data.length >= PG_COPY_PIECE) pg_copy_tell(r);
      if (more == 0) break;
      continue;
    }
    if (PQisBusy(self->pg)) break;
    PGresult *result = PQgetResult(self->pg);
    if (result == NULL) {
      if (r->streaming) PQsetSingleRowMode(self->pg);
      if (!self->pipeline)
        end_head(self);
      else if (++nulls > 2)
        return false;
      if (!self->pipeline) pg_conn_advance(self);
      continue;
    }
    nulls = 0;
    self->gathered = 0;
    if (PQresultStatus(result) == PGRES_PIPELINE_SYNC) {
      PQclear(result);
      end_head(self);
      /* It went out behind a DEALLOCATE, when the mode could not be set yet. */
      if (self->sent.first != NULL && self->sent.first->streaming) PQsetSingleRowMode(self->pg);
      continue;
    }
    take_result(self, r, result);
    if (self->state != PG_CONN_READY) return true;
    /* After a FATAL the session is over, whether its socket says so already or not. */
    if (r->fatal_seen || PQstatus(self->pg) == CONNECTION_BAD) return false;
    pause_if_full(self, r);
  }
  if (self->state == PG_CONN_READY && self->sent.first != NULL) tell_reader(self->sent.first);
  return true;
}

/* Why the connection broke: what the server said last, or else libpq. */
static void report_lost(pg_conn *self) {
  char why[sizeof self->error];
  const pg_request *r = self->sent.first;
  const PGresult *last = r != NULL && r->fatal_seen ? r->result : NULL;
  bool said = r != NULL && r->fatal_seen && self->error[0] != '\0';
  snprintf(why, sizeof why, "%s", said ? self->error : PQerrorMessage(self->pg));
  pg_conn_fail(self, why, last);
}

/* libpq keeps them until they are asked for, also where nobody listens. */
static void take_notifications(pg_conn *self) {
  PGnotify *n;
  while (self->state == PG_CONN_READY && (n = PQnotifies(self->pg)) != NULL) {
    if (self->events->notified != NULL) {
      self->gathered = 0;
      self->events->notified(self, n);
    }
    PQfreemem(n);
  }
}

void pg_conn_process(pg_conn *self) {
  if (self->state != PG_CONN_READY) return;
  bool alive = consume(self);
  bool whole = drain(self);
  take_notifications(self);
  if (self->state != PG_CONN_READY || !within_limit(self)) return;
  if (!alive || !whole || PQstatus(self->pg) == CONNECTION_BAD) {
    report_lost(self);
    return;
  }
  pg_conn_advance(self);
  if (self->state == PG_CONN_READY) self->events->advanced(self);
}

void pg_conn_resume(pg_conn *self) {
  if (!self->paused || self->state != PG_CONN_READY) return;
  self->paused = false;
  pg_conn_watch(self, UV_READABLE);
  /* libpq may hold whole rows already, for which the socket will not wake us. */
  bool whole = drain(self);
  if (self->state != PG_CONN_READY) return;
  if (!whole) {
    report_lost(self);
    return;
  }
  pg_conn_advance(self);
  if (self->state == PG_CONN_READY) self->events->advanced(self);
}
