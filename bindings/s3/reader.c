/* reader.c: see reader.h. */
#include "s3/reader.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "s3/check.h"

enum {
  HELD_MOST = 1024 * 1024, /* bytes; the connection pauses beyond */
  RESUMES = 5,             /* broken connections in a row, without a byte between */
};

struct s3_reader {
  s3_client *client;
  s3_reader_options options;
  char *key;
  http_headers headers, query, answer;
  s3_call *call;
  bytes held;
  size_t taken;      /* of held */
  uint64_t received; /* of the object */
  uint64_t deadline; /* of the stream, uv_hrtime; 0: none */
  s3_check check;    /* of all bytes, however many requests they take */
  bool open, ended, paused;
  int resumes;
  s3_failure failure;
};

static bool start(s3_reader *self);

static void tell(s3_reader *self) {
  self->options.on_event(self->options.data);
}

static bool on_head(s3_call *call, void *data) {
  s3_reader *self = data;
  if (self->open) { /* again: the same version, from where it broke */
    const char *before = http_headers_get(&self->answer, "etag"),
               *now = s3_call_header(call, "etag");
    return (self->received == 0 || s3_call_status(call) == 206) && before != NULL && now != NULL &&
           strcmp(before, now) == 0;
  }
  self->open = http_headers_add_all(&self->answer, s3_call_headers(call));
  s3_check_begin(&self->check, s3_call_status(call), &self->answer,
                 self->client->config.trust_etag);
  tell(self);
  return self->open;
}

static http_take on_push(void *data, const char *piece, size_t length) {
  s3_reader *self = data;
  size_t held = self->held.length - self->taken;
  if (held > 0 && held + length > HELD_MOST) {
    self->paused = true;
    return HTTP_TAKE_LATER;
  }
  if (held == 0 && self->taken > 0) {
    bytes_clear(&self->held);
    self->taken = 0;
  }
  if (!bytes_append(&self->held, piece, length)) return HTTP_TAKE_ABORT;
  s3_check_take(&self->check, piece, length);
  self->received += length;
  self->resumes = 0;
  tell(self);
  return HTTP_TAKEN;
}

static double remaining(const s3_reader *self) {
  if (self->deadline == 0) return 1e9;
  uint64_t now = uv_hrtime();
  return now >= self->deadline ? 0 : (double)(self->deadline - now) / 1e9;
}

static void on_done(s3_call *call, void *data) {
  s3_reader *self = data;
  self->failure = *s3_call_failure(call);
  s3_call_free(call);
  self->call = NULL;
  const char *other = NULL;
  bool again = self->open && self->failure.kind != S3_WELL && self->failure.retryable;
  if (again && remaining(self) > 0 && ++self->resumes <= RESUMES && start(self)) return;
  if (self->failure.kind == S3_WELL) other = s3_check_damage(&self->check);
  if (other != NULL) s3_failure_set_damage(&self->failure, "get", self->key, other);
  self->ended = true;
  tell(self);
}

/* The first bytes, or those after what has been received, of the same version. */
static bool start(s3_reader *self) {
  http_headers headers = {0};
  bool well = http_headers_add_all(&headers, &self->headers);
  const char *etag = http_headers_get(&self->answer, "etag");
  char range[64];
  snprintf(range, sizeof range, "bytes=%" PRIu64 "-", self->received);
  if (self->open) {
    well = well && http_headers_add(&headers, "Range", range);
    if (etag != NULL) well = well && http_headers_add(&headers, "If-Match", etag);
  }
  s3_call_request request = {
      .what = "get",
      .method = "GET",
      .key = self->key,
      .key_length = self->options.key_length,
      .headers = &headers,
      .query = &self->query,
      .push = on_push,
      .on_head = on_head,
      .deadline = self->deadline == 0 ? 0 : remaining(self),
      .on_done = on_done,
      .data = self,
  };
  self->call = well ? s3_call_start(self->client, &request) : NULL;
  http_headers_free(&headers);
  return self->call != NULL;
}

s3_reader *s3_reader_start(s3_client *client, const s3_reader_options *options) {
  s3_reader *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->client = s3_client_hold(client);
  self->options = *options;
  self->key = malloc(options->key_length + 1);
  bool well = self->key != NULL && http_headers_add_all(&self->headers, options->headers) &&
              http_headers_add_all(&self->query, options->query);
  if (well) {
    memcpy(self->key, options->key, options->key_length);
    self->key[options->key_length] = '\0';
  }
  double deadline = options->deadline > 0 ? options->deadline : client->config.deadline;
  if (deadline > 0 && deadline < 1e9) self->deadline = uv_hrtime() + (uint64_t)(deadline * 1e9);
  if (well && start(self)) return self;
  s3_reader_free(self);
  return NULL;
}

bool s3_reader_is_open(const s3_reader *self) {
  return self->open;
}

const http_headers *s3_reader_headers(const s3_reader *self) {
  return &self->answer;
}

const char *s3_reader_data(const s3_reader *self, size_t *length) {
  *length = self->held.length - self->taken;
  return bytes_text(&self->held) + self->taken;
}

void s3_reader_take(s3_reader *self, size_t length) {
  self->taken += length;
  if (self->taken == self->held.length) {
    bytes_clear(&self->held);
    self->taken = 0;
  }
  if (!self->paused || self->held.length - self->taken > HELD_MOST / 2) return;
  self->paused = false;
  if (self->call != NULL) s3_call_resume(self->call);
}

bool s3_reader_has_ended(const s3_reader *self) {
  return self->ended;
}

const s3_failure *s3_reader_failure(const s3_reader *self) {
  return &self->failure;
}

void s3_reader_free(s3_reader *self) {
  if (self == NULL) return;
  s3_call_free(self->call);
  http_headers_free(&self->headers);
  http_headers_free(&self->query);
  http_headers_free(&self->answer);
  bytes_free(&self->held);
  s3_check_end(&self->check);
  free(self->key);
  s3_client_release(self->client);
  free(self);
}
