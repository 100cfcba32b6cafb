/* copy.c: the data of a COPY. */
#include "pg/copy.h"
#include <stdlib.h>
#include <string.h>
#include "pg/pool.h"

void pg_copy_start(pg_request *request, const PGresult *result) {
  pg_copy *self = request->copy;
  self->started = true;
  self->in = PQresultStatus(result) == PGRES_COPY_IN;
  self->columns = PQnfields(result);
  if (request->abandoned && self->in)
    pg_copy_end(request, "the source failed");
  else
    pg_copy_tell(request);
}

void pg_copy_tell(pg_request *request) {
  pg_copy *self = request->copy;
  if (!self->wanted || request->abandoned || request->finished) return;
  self->wanted = false;
  request->done(request);
}

void pg_copy_free(pg_copy *self) {
  if (self == NULL) return;
  pg_copy_json_free(self->objects);
  json_buffer_free(&self->data);
  free(self);
}

/* COPY's text form escapes backslashes and control characters; JSON holds no raw control character
 * but between its tokens, where a blank does as well. A NULL is JSON's null. */
static size_t unescape_json(char *out, const char *in, size_t length) {
  if (length == 3 && memcmp(in, "\\N\n", 3) == 0) {
    memcpy(out, "null\n", 5);
    return 5;
  }
  size_t n = 0;
  for (size_t i = 0; i < length; i++) {
    if (in[i] != '\\' || i + 1 >= length)
      out[n++] = in[i];
    else
      out[n++] = in[++i] == '\\' ? '\\' : ' ';
  }
  return n;
}

/* Keeps what came, in the form that the caller wants. */
static pg_copy_json_wrote keep(pg_copy *self, const char *message, size_t length) {
  if (self->objects != NULL) return pg_copy_json_write(self->objects, message, length, &self->data);
  if (!self->json)
    return json_buffer_append(&self->data, message, length) ? PG_COPY_JSON_OK
                                                            : PG_COPY_JSON_NO_MEMORY;
  if (!json_buffer_reserve(&self->data, length + 2)) return PG_COPY_JSON_NO_MEMORY;
  self->data.length += unescape_json(self->data.data + self->data.length, message, length);
  return PG_COPY_JSON_OK;
}

/* False where the connection is to be closed. */
static bool take(pg_request *request, const char *message, size_t length) {
  pg_copy *self = request->copy;
  size_t before = self->data.length, most = pg_pool_options_get(request->pool)->max_bytes;
  if (most > 0 && length > most) {
    pg_request_finish(request, PG_OUTCOME_LIMIT, NULL);
    return true;
  }
  pg_copy_json_wrote kept = keep(self, message, length);
  if (kept == PG_COPY_JSON_OK) return true;
  self->data.length = before;
  if (kept != PG_COPY_JSON_NOT_UTF8) return false;
  pg_request_finish(request, PG_OUTCOME_UNFIT,
                    "a text of the rows is not UTF-8, as JSON has to be");
  return true;
}

int pg_copy_read(pg_conn *conn, pg_request *request) {
  pg_copy *self = request->copy;
  for (;;) {
    bool drop = request->abandoned || request->finished;
    if (!drop && self->data.length >= PG_COPY_BUFFER) {
      conn->paused = true;
      pg_conn_watch(conn, 0);
      return 0;
    }
    char *message = NULL;
    int length = PQgetCopyData(conn->pg, &message, 1);
    if (length == 0) return 0;
    if (length < 0) {
      self->ended = true;
      return 1; /* also -2: the error is the next result */
    }
    bool well = drop || take(request, message, (size_t)length);
    PQfreemem(message);
    if (!well) return -1;
  }
}

int pg_copy_put(pg_request *request, const char *data, size_t length) {
  pg_conn *conn = request->conn;
  while (length > 0) {
    int piece = length > (1 << 20) ? 1 << 20 : (int)length;
    if (PQputCopyData(conn->pg, data, piece) < 0) return -1;
    data += piece;
    length -= (size_t)piece;
  }
  int left = PQflush(conn->pg);
  if (left < 0) return -1;
  if (left == 0) return 1;
  pg_conn_watch(conn, UV_READABLE | UV_WRITABLE);
  return 0;
}

bool pg_copy_end(pg_request *request, const char *reason) {
  pg_conn *conn = request->conn;
  request->copy->ended = true;
  bool sent = PQputCopyEnd(conn->pg, reason) == 1;
  loop_defer(conn->loop, &conn->flush);
  return sent;
}

void pg_copy_taken(pg_request *request) {
  request->copy->data.length = 0;
  if (request->conn != NULL) pg_conn_resume(request->conn);
}

void pg_copy_abort(pg_request *request) {
  pg_copy *self = request->copy;
  pg_conn *conn = request->conn;
  request->abandoned = true;
  if (request->finished || conn == NULL || !self->started || self->ended) return;
  if (self->in)
    pg_copy_end(request, "the source failed");
  else
    pg_conn_resume(conn);
}
