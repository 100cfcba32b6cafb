/* multipart.c: the requests about an upload as a whole: the one PUT of a small object; or create, a
 * look whether a condition still holds, complete, a look at what is stored; or abort. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "crypto/crypto_crc32c.h"
#include "crypto/crypto_text.h"
#include "s3/check.h"
#include "s3/upload_internal.h"
#include "s3/xml.h"

#define ABORT_SECONDS 10.0

void upload_drop_call(s3_upload *self) {
  s3_call_free(self->call);
  self->call = NULL;
}

static bool start_call(s3_upload *self, s3_call_request *request,
                       void (*done)(s3_call *call, void *data)) {
  request->key = self->key;
  request->key_length = self->options.key_length;
  request->on_done = done;
  request->data = self;
  if (request->deadline == 0) request->deadline = self->options.deadline;
  self->call = s3_call_start(self->client, request);
  return self->call != NULL;
}

static bool start_with_id(s3_upload *self, s3_call_request *request,
                          void (*done)(s3_call *call, void *data)) {
  http_headers query = {0};
  bool well = http_headers_add(&query, "uploadId", self->upload_id);
  request->query = &query;
  well = well && start_call(self, request, done);
  http_headers_free(&query);
  return well;
}

static void end(s3_upload *self) {
  self->step = UPLOAD_ENDED;
  upload_tell_later(self);
}

static void on_aborted(s3_call *call, void *data) {
  (void)call; /* what could not be removed shows up in bucket:uploads() */
  s3_upload *self = data;
  upload_drop_call(self);
  end(self);
}

static void begin_abort(s3_upload *self) {
  self->step = UPLOAD_ABORTING;
  s3_call_request request = {.what = "abort", .method = "DELETE", .deadline = ABORT_SECONDS};
  if (self->upload_id == NULL || !start_with_id(self, &request, on_aborted)) end(self);
}

void upload_fail(s3_upload *self, const s3_failure *failure) {
  if (self->failed) return;
  self->failed = true;
  self->failure = *failure;
  upload_drop_parts(self);
  if (self->step == UPLOAD_CREATING && self->call != NULL) return; /* on_created aborts */
  upload_drop_call(self);
  begin_abort(self);
}

void upload_fail_memory(s3_upload *self) {
  s3_failure failure = {0};
  s3_failure_set(&failure, S3_NO_MEMORY, NULL, "out of memory");
  upload_fail(self, &failure);
}

static void done(s3_upload *self) {
  self->step = UPLOAD_DONE;
  upload_drop_parts(self);
  upload_tell(self);
}

static void keep_answer(s3_upload *self, const s3_call *call) {
  const char *etag = s3_call_header(call, "etag"), *version;
  if (etag != NULL) snprintf(self->etag, sizeof self->etag, "%s", etag);
  version = s3_call_header(call, "x-amz-version-id");
  if (version != NULL) snprintf(self->version, sizeof self->version, "%s", version);
}

static void on_put(s3_call *call, void *data) {
  s3_upload *self = data;
  s3_failure failure = *s3_call_failure(call);
  /* A web page. S3 answers without a body, a DAV server with another status. */
  if (failure.kind == S3_WELL && s3_call_status(call) == 200 && s3_call_body(call)->length > 0 &&
      s3_call_header(call, "etag") == NULL)
    s3_failure_set(&failure, S3_REFUSED, "MalformedAnswer",
                   "S3 put \"%.100s\": the answer is a page without an ETag: is %.200s an S3 "
                   "service? check S3_ENDPOINT",
                   self->key, self->client->config.endpoint);
  keep_answer(self, call);
  upload_drop_call(self);
  if (failure.kind != S3_WELL) {
    upload_fail(self, &failure);
    return;
  }
  self->sent = self->taken;
  done(self);
}

/* All that there is stands in one part: a plain PUT. */
void upload_begin_put(s3_upload *self, const s3_part *part) {
  self->step = UPLOAD_FINISHING;
  http_headers headers = {0};
  bool well = http_headers_add_all(&headers, &self->headers) &&
              http_headers_add_all(&headers, &self->conditions);
  s3_call_request request = {
      .what = "put",
      .method = "PUT",
      .headers = &headers,
      .body = part == NULL || part->length == 0 ? "" : part->data,
      .body_length = part == NULL ? 0 : part->length,
      .digests = part != NULL && self->file != NULL ? &part->digests : NULL,
      .checked = true,
      .once = self->conditions.count > 0,
  };
  well = well && start_call(self, &request, on_put);
  http_headers_free(&headers);
  if (!well) upload_fail_memory(self);
}

/* What is stored has the size that was sent: the upload is whole. */
static void on_verified(s3_call *call, void *data) {
  s3_upload *self = data;
  s3_failure failure = *s3_call_failure(call);
  const char *size = s3_call_header(call, "content-length");
  if (failure.kind == S3_WELL && size != NULL && strtoull(size, NULL, 10) != self->taken)
    s3_failure_set(&failure, S3_REFUSED, "IncompleteBody",
                   "S3 put \"%.100s\": %" PRIu64 " bytes were sent and %.20s are stored: something "
                   "else wrote the object at the same time, or the server lost a part",
                   self->key, self->taken, size);
  keep_answer(self, call);
  upload_drop_call(self);
  if (failure.kind != S3_WELL) {
    free(self->upload_id);
    self->upload_id = NULL; /* it is complete: there is nothing to abort */
    upload_fail(self, &failure);
    return;
  }
  done(self);
}

static void begin_verify(s3_upload *self) {
  s3_call_request request = {.what = "head", .method = "HEAD"};
  if (!start_call(self, &request, on_verified)) upload_fail_memory(self);
}

/* The ETag that S3 gives an object of these parts: the MD5 of their MD5s, and their number. */
static bool expected_etag(const s3_upload *self, char out[ETAG_BYTES]) {
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  bool well = context != NULL && EVP_DigestInit_ex(context, EVP_md5(), NULL) == 1;
  int count = self->next_number - 1;
  for (int i = 0; well && i < count; i++) {
    unsigned char digest[16];
    const char *etag = self->done[i].etag;
    if (*etag == '"') etag++;
    size_t bad;
    well = strlen(etag) >= 32 && crypto_unhex(etag, 32, digest, &bad);
    well = well && EVP_DigestUpdate(context, digest, sizeof digest) == 1;
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  char hex[2 * EVP_MAX_MD_SIZE + 1];
  well = well && EVP_DigestFinal_ex(context, digest, &size) == 1;
  if (well) {
    sign_hex(digest, size, hex);
    snprintf(out, ETAG_BYTES, "\"%.32s-%d\"", hex, count);
  }
  EVP_MD_CTX_free(context);
  return well;
}

/* The upload is unknown: an answer to an earlier attempt was lost, and the object may be whole. */
static void on_found(s3_call *call, void *data) {
  s3_upload *self = data;
  char expected[ETAG_BYTES];
  const char *etag = s3_call_header(call, "etag");
  bool ours = s3_call_failure(call)->kind == S3_WELL && etag != NULL &&
              expected_etag(self, expected) && strcmp(etag, expected) == 0;
  if (ours) {
    on_verified(call, data);
    return;
  }
  upload_drop_call(self);
  s3_failure failure = self->failure;
  upload_fail(self, &failure);
}

/* Of an object in parts, the checksum is that of the parts' checksums, and their number. Where the
 * server answers one, it is ours. */
static bool has_other_crc32c(const s3_upload *self, s3_call *call) {
  const bytes *body = s3_call_body(call);
  xml_document *document = xml_parse(bytes_text(body), body->length);
  const char *stored = xml_value(xml_root(document), "ChecksumCRC32C");
  bool other = false;
  if (upload_has_crc32c(self) && stored != NULL && strchr(stored, '-') != NULL) {
    uint32_t sum = 0;
    char text[S3_CRC32C_TEXT], wanted[S3_CRC32C_TEXT + 16];
    for (int i = 0; i < self->next_number - 1; i++) {
      uint32_t part = htonl(self->done[i].crc32c);
      sum = crypto_crc32c(sum, &part, sizeof part);
    }
    s3_crc32c_text(sum, text);
    snprintf(wanted, sizeof wanted, "%s-%d", text, self->next_number - 1);
    other = strcmp(stored, wanted) != 0;
  }
  xml_free(document);
  return other;
}

static void on_completed(s3_call *call, void *data) {
  s3_upload *self = data;
  s3_failure failure = *s3_call_failure(call);
  if (failure.kind == S3_WELL && has_other_crc32c(self, call))
    s3_failure_set(&failure, S3_REFUSED, "BadDigest",
                   "S3 put \"%.100s\": the server stored other bytes than were sent: their CRC32C "
                   "differs",
                   self->key);
  keep_answer(self, call);
  upload_drop_call(self);
  bytes_free(&self->body);
  if (failure.kind == S3_WELL) {
    begin_verify(self);
  } else if (strcmp(failure.code, "NoSuchUpload") == 0) {
    self->failure = failure;
    s3_call_request request = {.what = "head", .method = "HEAD"};
    if (!start_call(self, &request, on_found)) upload_fail_memory(self);
  } else {
    upload_fail(self, &failure);
  }
}

static void begin_complete(s3_upload *self) {
  bytes *body = &self->body;
  bytes_clear(body);
  bytes_append_text(body, "<CompleteMultipartUpload>");
  for (int i = 0; i < self->next_number - 1; i++) {
    bytes_format(body, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag>", i + 1,
                 self->done[i].etag);
    if (upload_has_crc32c(self)) {
      char text[S3_CRC32C_TEXT];
      s3_crc32c_text(self->done[i].crc32c, text);
      bytes_format(body, "<ChecksumCRC32C>%s</ChecksumCRC32C>", text);
    }
    bytes_append_text(body, "</Part>");
  }
  bytes_append_text(body, "</CompleteMultipartUpload>");
  s3_call_request request = {
      .what = "complete",
      .method = "POST",
      .headers = &self->conditions,
      .body = body->data,
      .body_length = body->length,
      .check_body = true,
  };
  if (body->failed || !start_with_id(self, &request, on_completed)) upload_fail_memory(self);
}

static void on_condition(s3_call *call, void *data) {
  s3_upload *self = data;
  s3_failure failure = *s3_call_failure(call);
  const char *etag = s3_call_header(call, "etag");
  bool absent = failure.kind == S3_ABSENT;
  if (absent || failure.kind == S3_WELL) {
    failure.kind = S3_WELL;
    if (!s3_condition_holds(&self->conditions, absent ? NULL : etag))
      s3_failure_set_unmet(&failure, "put", self->key, self->client->config.bucket);
  }
  upload_drop_call(self);
  if (failure.kind != S3_WELL) {
    upload_fail(self, &failure);
  } else {
    begin_complete(self);
  }
}

/* Not every server looks at conditions when it completes: they are looked at before as well. */
void upload_begin_finish(s3_upload *self) {
  self->step = UPLOAD_FINISHING;
  if (self->conditions.count == 0) {
    begin_complete(self);
    return;
  }
  s3_call_request request = {.what = "head", .method = "HEAD"};
  if (!start_call(self, &request, on_condition)) upload_fail_memory(self);
}

static void on_created(s3_call *call, void *data) {
  s3_upload *self = data;
  s3_failure failure = *s3_call_failure(call);
  bytes *body = s3_call_body(call);
  xml_document *document = xml_parse(bytes_text(body), body->length);
  const char *id = xml_value(xml_root(document), "UploadId");
  if (failure.kind == S3_WELL && (id == NULL || id[0] == '\0'))
    s3_failure_set(&failure, S3_REFUSED, "MalformedAnswer",
                   "S3 put \"%.100s\": the server began a multipart upload without an id",
                   self->key);
  if (failure.kind == S3_WELL) self->upload_id = strdup(id);
  xml_free(document);
  upload_drop_call(self);
  if (self->failed) {
    begin_abort(self);
  } else if (failure.kind != S3_WELL) {
    self->step = UPLOAD_SENDING;
    upload_fail(self, &failure);
  } else if (self->upload_id == NULL) {
    upload_fail_memory(self);
  } else {
    self->step = UPLOAD_SENDING;
    upload_created(self);
  }
}

void upload_begin_create(s3_upload *self) {
  self->step = UPLOAD_CREATING;
  http_headers query = {0};
  bool well = http_headers_add(&query, "uploads", "");
  if (upload_has_crc32c(self))
    well = well && http_headers_add(&self->headers, "x-amz-checksum-algorithm", "CRC32C");
  s3_call_request request = {
      .what = "put", .method = "POST", .headers = &self->headers, .query = &query, .body = ""};
  well = well && start_call(self, &request, on_created);
  http_headers_free(&query);
  if (!well) upload_fail_memory(self);
}
