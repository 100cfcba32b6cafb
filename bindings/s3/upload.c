/* upload.c: see upload.h. Parts: where their bytes come from, and how they are sent. */
#include "s3/upload.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "s3/upload_internal.h"
#include "s3/xml.h"

enum {
  /* A stream's parts double in size after so many, until they are so many times the first: of 5 MiB
   * come 1.25 GiB, and 5 TiB fit into 10,000. */
  PARTS_A_SIZE = 800,
  GROWTH_MOST = 256,
  MEMORY_BUDGET = 64 * 1024 * 1024, /* larger parts are sent fewer at once */
};

static void begin_part(s3_part *part);
static void pump(s3_upload *self);

void upload_tell(s3_upload *self) {
  self->options.on_event(self->options.data);
}

static void tell_from_timer(void *data) {
  s3_upload *self = data;
  self->later = NULL;
  upload_tell(self);
}

/* For what ends inside of a call from outside. */
void upload_tell_later(s3_upload *self) {
  if (self->later == NULL)
    self->later = loop_timer_start(self->client->on, 0, tell_from_timer, self);
}

void upload_drop_parts(s3_upload *self) {
  for (int i = 0; i < self->options.concurrency; i++) {
    s3_part *part = &self->parts[i];
    s3_call_free(part->call);
    part->call = NULL;
    part_read_cancel(part->read);
    part->number = 0;
    bytes_free(&part->buffer);
  }
  self->filling = NULL;
}

/* ---- parts ---- */

static bool keep_sent(s3_upload *self, const s3_part *part, const char *etag) {
  if (part->number > self->done_capacity) {
    int capacity = self->done_capacity == 0 ? 64 : self->done_capacity * 2;
    if (capacity < part->number) capacity = part->number;
    sent_part *done = realloc(self->done, (size_t)capacity * sizeof *done);
    if (done == NULL) return false;
    self->done = done;
    self->done_capacity = capacity;
  }
  sent_part *sent = &self->done[part->number - 1];
  snprintf(sent->etag, sizeof sent->etag, "%s", etag);
  s3_call_crc32c(part->call, &sent->crc32c);
  return true;
}

static void on_part(s3_call *call, void *data) {
  s3_part *part = data;
  s3_upload *self = part->upload;
  s3_failure failure = *s3_call_failure(call);
  const bytes *body = s3_call_body(call);
  xml_document *copied = self->source == NULL ? NULL : xml_parse(bytes_text(body), body->length);
  const char *etag =
      self->source == NULL ? s3_call_header(call, "etag") : xml_value(xml_root(copied), "ETag");
  if (failure.kind == S3_WELL && etag == NULL)
    s3_failure_set(&failure, S3_REFUSED, "MalformedAnswer",
                   "S3 put \"%.100s\": the server took part %d without an ETag", self->key,
                   part->number);
  if (failure.kind == S3_WELL && !keep_sent(self, part, etag))
    s3_failure_set(&failure, S3_NO_MEMORY, NULL, "out of memory");
  xml_free(copied);
  s3_call_free(part->call);
  part->call = NULL;
  if (failure.kind != S3_WELL) {
    upload_fail(self, &failure);
    return;
  }
  self->sent += part->length;
  part->number = 0;
  part->filled = false;
  pump(self);
  upload_tell(self);
}

static bool add_source(const s3_part *part, http_headers *headers) {
  const s3_upload *self = part->upload;
  char range[64];
  snprintf(range, sizeof range, "bytes=%" PRIu64 "-%" PRIu64, part->offset,
           part->offset + part->length - 1);
  return http_headers_add(headers, "x-amz-copy-source", self->source) &&
         http_headers_add(headers, "x-amz-copy-source-range", range) &&
         (self->source_etag == NULL ||
          http_headers_add(headers, "x-amz-copy-source-if-match", self->source_etag));
}

/* Sends a part that is filled. */
static void begin_part(s3_part *part) {
  s3_upload *self = part->upload;
  http_headers query = {0}, headers = {0};
  char number[16];
  snprintf(number, sizeof number, "%d", part->number);
  bool copies = self->source != NULL;
  bool well = http_headers_add(&query, "partNumber", number) &&
              http_headers_add(&query, "uploadId", self->upload_id) &&
              (!copies || add_source(part, &headers));
  s3_call_request request = {
      .what = copies ? "copy" : "put",
      .method = "PUT",
      .key = self->key,
      .key_length = self->options.key_length,
      .query = &query,
      .headers = &headers,
      .body = copies ? "" : part->data,
      .body_length = copies ? 0 : part->length,
      .digests = self->file != NULL ? &part->digests : NULL,
      .checked = !copies,
      .check_body = copies,
      .deadline = self->options.deadline,
      .on_done = on_part,
      .data = part,
  };
  if (well) part->call = s3_call_start(self->client, &request);
  http_headers_free(&query);
  http_headers_free(&headers);
  if (part->call == NULL) upload_fail_memory(self);
}

/* A part has all of its bytes: it is sent now, or once the upload has its id. */
static void part_filled(s3_part *part) {
  s3_upload *self = part->upload;
  part->filled = true;
  if (self->step == UPLOAD_SENDING) {
    begin_part(part);
  } else if (self->step == UPLOAD_FILLING) {
    if (self->ended && self->next_number == 2 && self->source == NULL) {
      upload_begin_put(self, part);
    } else {
      upload_begin_create(self);
    }
  }
}

static size_t part_size(const s3_upload *self, int number) {
  uint64_t size = self->options.part_size, most = size * GROWTH_MOST;
  if (self->size > 0) return size; /* chosen for it */
  if (most > S3_PART_MOST) most = S3_PART_MOST;
  for (int doubled = number; doubled > PARTS_A_SIZE && size < most; doubled -= PARTS_A_SIZE)
    size *= 2;
  return size < most ? (size_t)size : (size_t)most;
}

/* A part to fill, or NULL while all of them are busy. */
static s3_part *next_part(s3_upload *self) {
  size_t size = part_size(self, self->next_number), busy = 0;
  s3_part *found = NULL;
  for (int i = 0; i < self->options.concurrency; i++) {
    s3_part *part = &self->parts[i];
    busy += part->number != 0;
    if (part->number == 0) found = part;
  }
  bool in_memory = self->source == NULL;
  if (found == NULL || (in_memory && busy > 0 && (busy + 1) * size > MEMORY_BUDGET)) return NULL;
  if (self->next_number > S3_PARTS_MOST) {
    s3_failure failure = {0};
    s3_failure_set(&failure, S3_LIMIT, "EntityTooLarge",
                   "S3 put \"%.100s\": the stream is longer than 10,000 parts can hold: give a "
                   "larger part_size",
                   self->key);
    upload_fail(self, &failure);
    return NULL;
  }
  found->number = self->next_number++;
  found->data = NULL;
  found->length = 0;
  found->filled = false;
  bytes_clear(&found->buffer);
  return found;
}

static void on_read(s3_part *part, int error) {
  s3_upload *self = part->upload;
  if (error == 0) {
    part_filled(part);
    return;
  }
  s3_failure failure = {0};
  s3_failure_set(&failure, S3_IO, error == UV_EOF ? "EOF" : uv_err_name(error),
                 "S3 put \"%.100s\": the file cannot be read: %s", self->key,
                 error == UV_EOF ? "it became shorter while it was read" : uv_strerror(error));
  upload_fail(self, &failure);
}

/* Fills free parts from memory or file. */
static void fill_from_source(s3_upload *self) {
  s3_digests_wanted wanted = {.sha256 = !self->client->config.unsigned_payload,
                              .crc32c = self->client->config.crc32c};
  while (!self->failed && self->given < self->size) {
    s3_part *part = next_part(self);
    if (part == NULL) return;
    uint64_t left = self->size - self->given;
    size_t most = part_size(self, part->number);
    size_t length = left < most ? (size_t)left : most;
    uint64_t offset = self->given;
    self->given += length;
    self->taken += length;
    if (self->given == self->size) self->ended = true;
    part->offset = offset;
    if (self->source != NULL) {
      part->length = length;
      part_filled(part);
    } else if (self->memory != NULL) {
      part->data = self->memory + offset;
      part->length = length;
      part_filled(part);
    } else if (!part_read_start(part, self->client->on, self->file, offset, length, wanted,
                                on_read)) {
      upload_fail_memory(self);
    }
  }
}

static void pump(s3_upload *self) {
  if (self->failed) return;
  fill_from_source(self);
  if (self->failed || self->step != UPLOAD_SENDING || !self->ended) return;
  for (int i = 0; i < self->options.concurrency; i++) {
    if (self->parts[i].number != 0) return;
  }
  upload_begin_finish(self);
}

void upload_created(s3_upload *self) {
  for (int i = 0; i < self->options.concurrency && !self->failed; i++) {
    if (self->parts[i].filled) begin_part(&self->parts[i]);
  }
  pump(self);
}

/* ---- from outside ---- */

s3_upload *s3_upload_new(s3_client *client, const s3_upload_options *options) {
  s3_upload *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->client = s3_client_hold(client);
  self->options = *options;
  if (self->options.part_size < S3_PART_LEAST) self->options.part_size = S3_PART_LEAST;
  self->next_number = 1;
  self->key = malloc(options->key_length + 1);
  self->parts = calloc((size_t)options->concurrency, sizeof *self->parts);
  if (self->key == NULL || self->parts == NULL ||
      !http_headers_add_all(&self->headers, options->headers) ||
      !http_headers_add_all(&self->conditions, options->conditions)) {
    s3_upload_free(self);
    return NULL;
  }
  memcpy(self->key, options->key, options->key_length);
  self->key[options->key_length] = '\0';
  for (int i = 0; i < options->concurrency; i++)
    self->parts[i].upload = self;
  return self;
}

static void refuse_size(s3_upload *self) {
  s3_failure failure = {0};
  s3_failure_set(&failure, S3_LIMIT, "EntityTooLarge",
                 "S3 put \"%.100s\": an object is at most 5 TiB, this is more: split it",
                 self->key);
  upload_fail(self, &failure);
}

static void begin_source(s3_upload *self, uint64_t size) {
  if (size > (uint64_t)S3_OBJECT_MOST) {
    refuse_size(self);
    return;
  }
  self->size = size;
  uint64_t least = (size + S3_PARTS_MOST - 1) / S3_PARTS_MOST;
  if (least > self->options.part_size) self->options.part_size = (size_t)least;
  if (size == 0) {
    self->ended = true;
    upload_begin_put(self, NULL);
  } else {
    pump(self);
  }
}

void s3_upload_from_memory(s3_upload *self, const char *data, size_t length) {
  self->memory = data;
  begin_source(self, length);
}

void s3_upload_from_file(s3_upload *self, int file, uint64_t size) {
  self->file = part_file_new(file);
  if (self->file != NULL) {
    begin_source(self, size);
  } else {
    upload_fail_memory(self);
  }
}

void s3_upload_from_object(s3_upload *self, const char *source, const char *etag, uint64_t size) {
  self->source = strdup(source);
  self->source_etag = etag == NULL ? NULL : strdup(etag);
  if (self->source != NULL && (etag == NULL || self->source_etag != NULL)) {
    begin_source(self, size);
  } else {
    upload_fail_memory(self);
  }
}

bool s3_upload_describe(s3_upload *self, const http_headers *answer) {
  static const char *const NAMES[] = {"content-type",        "content-encoding",
                                      "content-disposition", "content-language",
                                      "cache-control",       "x-amz-storage-class"};
  bool well = true;
  for (size_t i = 0; well && i < answer->count; i++) {
    const http_header *header = &answer->items[i];
    bool kept = strncmp(header->name, "x-amz-meta-", 11) == 0;
    for (size_t j = 0; j < sizeof NAMES / sizeof NAMES[0]; j++)
      kept |= strcmp(header->name, NAMES[j]) == 0;
    kept = kept && http_headers_get(&self->headers, header->name) == NULL;
    if (kept) well = http_headers_add(&self->headers, header->name, header->value);
  }
  return well;
}

bool upload_has_crc32c(const s3_upload *self) {
  return self->client->config.crc32c && self->source == NULL;
}

size_t s3_upload_write(s3_upload *self, const char *data, size_t length) {
  size_t taken = 0;
  if (length > (uint64_t)S3_OBJECT_MOST - self->taken) {
    refuse_size(self);
    return 0;
  }
  while (taken < length && !self->failed && !self->ended) {
    if (self->filling != NULL && self->filling->length == part_size(self, self->filling->number)) {
      s3_part *full = self->filling;
      self->filling = NULL;
      part_filled(full);
    }
    if (self->filling == NULL) self->filling = self->failed ? NULL : next_part(self);
    s3_part *part = self->filling;
    if (part == NULL) break;
    size_t room = part_size(self, part->number) - part->length, piece = length - taken;
    if (piece > room) piece = room;
    if (!bytes_append(&part->buffer, data + taken, piece)) {
      upload_fail_memory(self);
      break;
    }
    part->data = part->buffer.data;
    part->length += piece;
    taken += piece;
  }
  self->taken += taken;
  return taken;
}

void s3_upload_finish(s3_upload *self) {
  if (self->ended || self->failed) return;
  self->ended = true;
  s3_part *last = self->filling;
  self->filling = NULL;
  if (last != NULL) {
    part_filled(last);
  } else if (self->step == UPLOAD_FILLING) {
    upload_begin_put(self, NULL);
  }
  pump(self);
}

void s3_upload_abort(s3_upload *self) {
  if (self->step == UPLOAD_DONE || self->step == UPLOAD_ENDED || self->failed) return;
  s3_failure failure = {0};
  s3_failure_set(&failure, S3_CLOSED, "Aborted", "the upload of \"%.100s\" was aborted", self->key);
  upload_fail(self, &failure);
}

s3_upload_state s3_upload_get_state(const s3_upload *self) {
  return self->step == UPLOAD_DONE    ? S3_UPLOAD_DONE
         : self->step == UPLOAD_ENDED ? S3_UPLOAD_ENDED
                                      : S3_UPLOAD_OPEN;
}

bool s3_upload_has_failed(const s3_upload *self) {
  return self->failed;
}

const s3_failure *s3_upload_failure(const s3_upload *self) {
  return &self->failure;
}

uint64_t s3_upload_taken(const s3_upload *self) {
  return self->taken;
}

uint64_t s3_upload_sent(const s3_upload *self) {
  return self->sent;
}

const char *s3_upload_etag(const s3_upload *self) {
  return self->etag[0] == '\0' ? NULL : self->etag;
}

const char *s3_upload_version(const s3_upload *self) {
  return self->version[0] == '\0' ? NULL : self->version;
}

void s3_upload_free(s3_upload *self) {
  if (self == NULL) return;
  if (self->parts != NULL) upload_drop_parts(self);
  upload_drop_call(self);
  loop_timer_stop(self->client->on, self->later);
  part_file_release(self->file);
  http_headers_free(&self->headers);
  http_headers_free(&self->conditions);
  bytes_free(&self->body);
  free(self->parts);
  free(self->done);
  free(self->upload_id);
  free(self->source);
  free(self->source_etag);
  free(self->key);
  s3_client_release(self->client);
  free(self);
}
