/* call.c: see call.h. The states of a call, in order: an identity, the body's hash, then attempts:
 * sign, transfer, judge, wait. Each state ends in one callback; `begin_*` enters the next. */
#include "s3/call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "http/uri.h"
#include "s3/check.h"
#include "s3/judge.h"
#include "s3/sign.h"

enum {
  ERROR_BYTES_MOST = 64 * 1024,
  RESERVE_MOST = 64 * 1024 * 1024,
  BULK_LEAST = 1024 * 1024, /* bodies from here on get larger buffers */
};

struct s3_call {
  s3_client *client;
  s3_call_request request; /* its strings and lists are the ones below */
  char *key;
  http_headers query, headers;
  bytes url;          /* without the query */
  s3_digests digests; /* of the body that is sent */
  bool digested;

  s3_credentials_wait identity_wait;
  unsigned generation; /* of the identity that signed the attempt under way */
  s3_hash *hashing;
  http_transfer *transfer;
  loop_timer *timer;       /* the wait before an attempt, or before telling a failure */
  uint64_t deadline;       /* uv_hrtime; 0: none */
  int64_t sent_at, skew;   /* of the attempt under way, as it was signed */
  unsigned region_changes; /* that the URL knows of */
  retry_state retries;
  size_t received; /* bytes of a good answer's body */
  bool over_limit;
  bool delivered; /* bytes of a good answer have gone to push: no attempt may follow */
  bool reidentified, reclocked, relocated; /* each correction is tried once */
  bool probing, probed; /* a HEAD failed without a word: a GET of a byte tells why */

  s3_check check; /* of the answer's body */
  bytes body;
  s3_failure failure;
};

static void begin_attempt(s3_call *self);

static void finish(s3_call *self) {
  self->request.on_done(self, self->request.data);
}

static void finish_later(void *data) {
  s3_call *self = data;
  self->timer = NULL;
  finish(self);
}

/* Tells the failure from a turn of the loop of its own. */
static void fail(s3_call *self) {
  self->timer = loop_timer_start(self->client->on, 0, finish_later, self);
  if (self->timer == NULL) finish(self);
}

static void fail_memory(s3_call *self) {
  s3_failure_set(&self->failure, S3_NO_MEMORY, NULL, "S3 %s: out of memory", self->request.what);
  fail(self);
}

/* ---- the URL ---- */

bool s3_url_append(bytes *out, const s3_client *client, const char *bucket, const char *key,
                   size_t key_length) {
  const s3_config *config = &client->config;
  if (bucket == NULL) bucket = config->bucket;
  const char *host = strstr(config->endpoint, "://") + 3;
  /* A wildcard certificate covers one label: a bucket with dots goes into the path. */
  bool dotted = strchr(bucket, '.') != NULL && host - config->endpoint == 8;
  bool in_path = config->path_style || dotted;
  if (in_path) {
    bytes_format(out, "%s/", config->endpoint);
    uri_encode(out, bucket, strlen(bucket), false);
  } else {
    bytes_append(out, config->endpoint, (size_t)(host - config->endpoint));
    bytes_format(out, "%s.%s", bucket, host);
  }
  if (key != NULL || !in_path) bytes_append_char(out, '/');
  if (key != NULL) uri_encode(out, key, key_length, true);
  return !out->failed;
}

static bool append_query(bytes *out, const http_headers *query) {
  for (size_t i = 0; i < query->count; i++) {
    bytes_append_char(out, i == 0 ? '?' : '&');
    uri_encode(out, query->items[i].name, strlen(query->items[i].name), false);
    bytes_append_char(out, '=');
    uri_encode(out, query->items[i].value, strlen(query->items[i].value), false);
  }
  return !out->failed;
}

/* ---- an attempt ---- */

static const char *method_of(const s3_call *self) {
  return self->probing ? "GET" : self->request.method;
}

static bool is_good(s3_call *self) {
  return http_transfer_response(self->transfer)->status / 100 == 2;
}

/* What the server says it has stored is what was sent. */
static bool is_stored_damaged(const s3_call *self) {
  char sent[S3_CRC32C_TEXT];
  const char *stored = s3_call_header(self, S3_CRC32C_HEADER);
  if (!self->digests.has_crc32c || stored == NULL) return false;
  s3_crc32c_text(self->digests.crc32c, sent);
  return strcmp(sent, stored) != 0;
}

/* Room for the stated length at once; what does not fit is refused as it comes. */
static void reserve_body(s3_call *self) {
  const char *stated = s3_call_header(self, "content-length");
  size_t most = self->request.max_bytes;
  if (stated == NULL || self->request.push != NULL || !is_good(self)) return;
  unsigned long long length = strtoull(stated, NULL, 10);
  if (length <= RESERVE_MOST && length <= most) /* without a limit there is no body: HEAD, PUT */
    bytes_reserve(&self->body, (size_t)length);
}

static bool on_head(http_transfer *transfer, void *data) {
  s3_call *self = data;
  self->transfer = transfer;
  bytes_clear(&self->body);
  self->received = 0;
  const http_response *response = http_transfer_response(transfer);
  if (self->request.verify)
    s3_check_begin(&self->check, response->status, &response->headers,
                   self->client->config.trust_etag);
  reserve_body(self);
  if (!is_good(self) || self->request.on_head == NULL) return true;
  return self->request.on_head(self, self->request.data);
}

static http_take on_push(void *data, const char *piece, size_t length) {
  s3_call *self = data;
  if (is_good(self)) {
    size_t most = self->request.max_bytes;
    self->over_limit = most > 0 && (length > most || self->received > most - length);
    if (self->over_limit) return HTTP_TAKE_ABORT;
    http_take taken = HTTP_TAKE_ABORT;
    if (self->request.push != NULL) {
      taken = self->request.push(self->request.data, piece, length);
      self->delivered |= taken == HTTP_TAKEN && !self->request.rewinds;
    } else if (bytes_append(&self->body, piece, length)) {
      taken = HTTP_TAKEN;
    }
    if (taken == HTTP_TAKEN) {
      self->received += length;
      s3_check_take(&self->check, piece, length);
    }
    return taken;
  }
  /* What an error says beyond this is not worth the memory. */
  size_t room = ERROR_BYTES_MOST - self->body.length;
  bytes_append(&self->body, piece, length < room ? length : room);
  return HTTP_TAKEN;
}

static void retry_now(void *data) {
  s3_call *self = data;
  self->timer = NULL;
  begin_attempt(self);
}

static void again_after(s3_call *self, double seconds) {
  http_transfer_free(self->transfer);
  self->transfer = NULL;
  bytes_clear(&self->body);
  self->timer = loop_timer_start(self->client->on, seconds, retry_now, self);
  if (self->timer == NULL) fail_memory(self);
}

static double remaining(const s3_call *self) {
  if (self->deadline == 0) return 1e9;
  uint64_t now = uv_hrtime();
  return now >= self->deadline ? 0 : (double)(self->deadline - now) / 1e9;
}

/* A temporary redirect names the object's address, to which this call goes then, signed anew. True
 * where it does. */
static bool follow(s3_call *self) {
  const char *location = s3_call_header(self, "location");
  uri_parts parts;
  if (s3_call_status(self) != 307 || location == NULL || self->relocated ||
      !uri_split(location, &parts))
    return false;
  size_t length = strcspn(location, "?#");
  bool same = length == self->url.length && memcmp(location, self->url.data, length) == 0;
  bool open = strncmp(self->url.data, "https:", 6) == 0 && strncmp(location, "https:", 6) != 0;
  if (same || open) return false;
  self->relocated = true;
  bytes_clear(&self->url);
  return bytes_append(&self->url, location, length);
}

/* The bucket is elsewhere than this attempt was signed for; another call may have learnt it
 * meanwhile. What is said of another bucket, whose object is copied, says nothing of ours. */
static bool move(s3_call *self, const char *region) {
  s3_client *client = self->client;
  bool is_news = strcmp(region, client->config.region) != 0;
  bool was_old = self->region_changes != client->region_changes;
  if (self->request.bucket != NULL || (!is_news && !was_old)) return false;
  self->relocated = true;
  /* A 400 is about the signature alone: what names no other endpoint stays where it is. */
  if (is_news && !s3_client_set_region(client, region, s3_call_status(self) != 400)) return false;
  bytes_clear(&self->url);
  return s3_url_append(&self->url, client, NULL, self->key, self->request.key_length);
}

/* What one more request sets right, at no cost to the retry quota. */
static bool correct(s3_call *self, const s3_verdict *verdict) {
  if (verdict->skewed && !self->reclocked) {
    self->reclocked = true;
    self->client->skew = self->skew + verdict->skew;
    return true;
  }
  if (verdict->expired && !self->reidentified) {
    self->reidentified = true;
    return s3_credentials_expire(self->client->credentials, self->generation);
  }
  if (verdict->region[0] != '\0' && !self->relocated && move(self, verdict->region)) return true;
  return follow(self);
}

/* An answer to HEAD does not say what is wrong: whether it is the object that is missing or the
 * bucket (asked once a client), which part of the credentials is no good, or that their time is
 * over. True where the call must go out again. */
static bool probe(s3_call *self, const s3_verdict *verdict) {
  const s3_failure *failure = &verdict->failure;
  bool is_head = strcmp(self->request.method, "HEAD") == 0 && self->key != NULL;
  bool is_ours = self->request.bucket == NULL, was_probing = self->probing;
  if (is_ours && (failure->kind == S3_WELL || failure->kind == S3_CONFLICT ||
                  strcmp(failure->code, "NoSuchKey") == 0))
    self->client->bucket_seen = true;
  bool refused = failure->status == 400 || failure->status == 403;
  bool untold = failure->kind == S3_ABSENT
                    ? !(is_ours && self->client->bucket_seen)
                    : refused && !verdict->skewed && verdict->region[0] == '\0';
  self->probing = is_head && untold && !was_probing && !self->probed;
  self->probed |= self->probing;
  bool appeared = failure->kind == S3_WELL || failure->kind == S3_INVALID; /* an empty one */
  return self->probing || (was_probing && appeared);
}

static void look_for_damage(s3_call *self, s3_verdict *verdict) {
  s3_failure *failure = &self->failure;
  const char *key = self->key == NULL ? "" : self->key;
  if (is_stored_damaged(self)) {
    s3_failure_set(failure, S3_REFUSED, "BadDigest",
                   "S3 %s \"%.100s\": the server stored other bytes than were sent: their CRC32C "
                   "differs",
                   self->request.what, key);
  } else {
    const char *other = s3_check_damage(&self->check);
    if (other == NULL) return;
    s3_failure_set_damage(failure, self->request.what, key, other);
  }
  failure->retryable = verdict->again = !self->delivered;
}

static void on_transfer(http_transfer *transfer, void *data) {
  s3_call *self = data;
  s3_verdict verdict;
  s3_judged judged = {.client = self->client,
                      .what = self->request.what,
                      .key = self->key,
                      .key_length = self->request.key_length,
                      .has_body = strcmp(method_of(self), "HEAD") != 0,
                      .check_body = self->request.check_body,
                      .encrypts = http_headers_get(&self->headers, S3_SSE_HEADER) != NULL,
                      .body = bytes_text(&self->body),
                      .body_length = self->body.length,
                      .sent_at = self->sent_at};
  s3_judge(&judged, http_transfer_response(transfer), &verdict);
  self->failure = verdict.failure;
  s3_failure *failure = &self->failure;
  if (probe(self, &verdict)) {
    again_after(self, 0);
    return;
  }
  if (failure->kind == S3_WELL) look_for_damage(self, &verdict);
  if (self->over_limit)
    s3_failure_set(
        failure, S3_LIMIT, NULL,
        "S3 %s \"%.100s\": it is larger than the limit of %zu bytes: raise max_bytes, or "
        "read it in pieces with :reader",
        self->request.what, self->key == NULL ? "" : self->key, self->request.max_bytes);
  if (failure->kind == S3_WELL || failure->kind == S3_ABSENT)
    retry_succeeded(&self->client->quota, &self->retries);
  if (failure->kind == S3_WELL || failure->kind == S3_CLOSED || self->delivered) {
    finish(self);
    return;
  }
  if (correct(self, &verdict)) {
    again_after(self, 0);
    return;
  }
  if (self->request.once && verdict.again && !verdict.untouched) {
    failure->kind = S3_UNKNOWN;
    size_t length = strlen(failure->message);
    snprintf(failure->message + length, sizeof failure->message - length,
             ": whether it was stored is not known: read it back");
    failure->retryable = false;
    verdict.again = false;
  }
  double wait;
  bool timed_out = failure->kind == S3_TIMEOUT;
  if (verdict.again &&
      retry_take(&self->client->quota, &self->retries, self->client->config.attempts, timed_out,
                 failure->retry_after, &wait) &&
      wait < remaining(self)) {
    again_after(self, wait);
    return;
  }
  finish(self);
}

/* Another call may have learnt of another region since the URL was made. */
static bool renew_url(s3_call *self) {
  bool same = self->region_changes == self->client->region_changes;
  self->region_changes = self->client->region_changes;
  if (same || self->relocated || self->request.bucket != NULL) return true;
  bytes_clear(&self->url);
  return s3_url_append(&self->url, self->client, NULL, self->key, self->request.key_length);
}

static bool sign_attempt(s3_call *self, const s3_identity *identity, sign_result *signature) {
  if (!renew_url(self)) return false;
  const s3_config *config = &self->client->config;
  bytes url = {0};
  bytes_append(&url, self->url.data, self->url.length);
  append_query(&url, &self->query);
  self->skew = self->client->skew;
  self->sent_at = (int64_t)time(NULL) + self->skew;
  sign_request request = {
      .method = method_of(self),
      .url = bytes_text(&url),
      .headers = &self->headers,
      .payload_hash = self->digests.sha256,
      .region = config->region,
      .service = "s3",
      .access_key_id = identity->access_key_id,
      .secret_access_key = identity->secret_access_key,
      .key = &self->client->key,
      .session_token = identity->session_token,
      .time = self->sent_at,
      .encode_once = true,
      .sign_body = true,
  };
  if (self->request.body != NULL && config->unsigned_payload)
    request.payload_hash = SIGN_UNSIGNED_PAYLOAD;
  bool well = !url.failed && sign_make(&request, signature) == SIGN_OK &&
              http_headers_add_all(&signature->added, &self->headers) &&
              (!self->probing || http_headers_add(&signature->added, "Range", "bytes=0-0"));
  bytes_free(&url);
  return well;
}

static void send_attempt(s3_call *self, const sign_result *signature) {
  const s3_config *config = &self->client->config;
  http_request request = {
      .method = method_of(self),
      .url = bytes_text(&signature->url),
      .headers = &signature->added,
      .body = self->request.body,
      .body_length = self->request.body_length,
      .push = on_push,
      .on_head = on_head,
      .on_done = on_transfer,
      .data = self,
      .connect_timeout = config->connect_timeout,
      .first_byte_timeout = config->first_byte_timeout,
      .stall_timeout = config->stall_timeout,
      .low_speed = config->low_speed,
      .total_timeout = self->deadline == 0 ? 0 : remaining(self) + 0.001,
      .proxy = config->proxy,
      .ca_file = config->ca_file,
      .bulk = self->request.body_length >= BULK_LEAST || self->request.push != NULL,
  };
  self->transfer = http_transfer_start(self->client->http, &request);
  if (self->transfer == NULL) fail_memory(self);
}

static bool take_digests(s3_call *self, const s3_digests *digests) {
  char text[S3_CRC32C_TEXT];
  self->digests = *digests;
  self->digested = true;
  if (!digests->has_crc32c) return true;
  s3_crc32c_text(digests->crc32c, text);
  return http_headers_add(&self->headers, S3_CRC32C_HEADER, text);
}

static void on_hash(void *data, const s3_digests *digests) {
  s3_call *self = data;
  self->hashing = NULL;
  if (digests == NULL || !take_digests(self, digests)) {
    fail_memory(self);
    return;
  }
  begin_attempt(self);
}

/* True where the digests are there; else they are on their way, or the call has failed. */
static bool have_digests(s3_call *self) {
  if (self->digested) return true;
  const char *body = self->request.body == NULL ? "" : self->request.body;
  size_t length = self->request.body_length;
  s3_digests_wanted wanted = {
      .sha256 = length == 0 || !self->client->config.unsigned_payload,
      .crc32c = self->request.checked && self->client->config.crc32c,
  };
  if (!wanted.sha256 && !wanted.crc32c) return true;
  if (length <= S3_HASH_HERE_MOST) {
    s3_hasher hasher;
    s3_digests digests;
    s3_hasher_begin(&hasher, wanted);
    s3_hasher_take(&hasher, body, length);
    if (s3_hasher_end(&hasher, &digests) && take_digests(self, &digests)) return true;
    fail_memory(self);
    return false;
  }
  self->hashing = s3_hash_start(self->client->on, body, length, wanted, on_hash, self);
  if (self->hashing == NULL) fail_memory(self);
  return false;
}

static void on_identity(void *data) {
  begin_attempt(data);
}

static void begin_attempt(s3_call *self) {
  const s3_identity *identity = s3_credentials_get(self->client->credentials, &self->identity_wait);
  if (identity == NULL) {
    const char *problem = s3_credentials_problem(self->client->credentials);
    if (problem == NULL) return; /* on_identity comes */
    s3_failure_set(&self->failure, S3_CONFIG, NULL, "%s", problem);
    fail(self);
    return;
  }
  if (!have_digests(self)) return;
  sign_result signature = {0};
  self->generation = s3_credentials_generation(self->client->credentials);
  if (self->generation != self->client->key_generation) {
    self->client->key = (sign_key){0};
    self->client->key_generation = self->generation;
  }
  self->retries.attempts++;
  if (sign_attempt(self, identity, &signature)) {
    send_attempt(self, &signature);
  } else {
    fail_memory(self);
  }
  sign_result_free(&signature);
}

/* ---- from outside ---- */

static bool take_request(s3_call *self, const s3_call_request *request) {
  self->request = *request;
  if (request->key != NULL) {
    self->key = malloc(request->key_length + 1);
    if (self->key == NULL) return false;
    memcpy(self->key, request->key, request->key_length);
    self->key[request->key_length] = '\0';
  }
  self->request.key = self->key;
  if (request->query != NULL && !http_headers_add_all(&self->query, request->query)) return false;
  if (request->headers != NULL && !http_headers_add_all(&self->headers, request->headers))
    return false;
  self->request.query = self->request.headers = NULL;
  bool reads = strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0;
  if (reads && self->key != NULL && self->client->config.crc32c &&
      !http_headers_add(&self->headers, "x-amz-checksum-mode", "ENABLED"))
    return false;
  if (request->digests != NULL && !take_digests(self, request->digests)) return false;
  self->request.digests = NULL;
  self->region_changes = self->client->region_changes;
  return s3_url_append(&self->url, self->client, request->bucket, self->key, request->key_length);
}

s3_call *s3_call_start(s3_client *client, const s3_call_request *request) {
  s3_call *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->client = s3_client_hold(client);
  self->identity_wait = (s3_credentials_wait){.ready = on_identity, .data = self};
  if (!take_request(self, request)) {
    s3_call_free(self);
    return NULL;
  }
  double deadline = request->deadline > 0 ? request->deadline : client->config.deadline;
  if (deadline > 0 && deadline < 1e9) self->deadline = uv_hrtime() + (uint64_t)(deadline * 1e9);
  begin_attempt(self);
  return self;
}

const s3_failure *s3_call_failure(const s3_call *self) {
  return &self->failure;
}

bool s3_call_crc32c(const s3_call *self, uint32_t *out) {
  *out = self->digests.crc32c;
  return self->digests.has_crc32c;
}

int s3_call_status(const s3_call *self) {
  return self->transfer == NULL ? 0 : http_transfer_response(self->transfer)->status;
}

bytes *s3_call_body(s3_call *self) {
  return &self->body;
}

const http_headers *s3_call_headers(const s3_call *self) {
  static const http_headers NONE;
  return self->transfer == NULL ? &NONE : &http_transfer_response(self->transfer)->headers;
}

const char *s3_call_header(const s3_call *self, const char *name) {
  return http_headers_get(s3_call_headers(self), name);
}

void s3_call_resume(s3_call *self) {
  if (self->transfer != NULL) http_transfer_resume(self->transfer);
}

void s3_call_free(s3_call *self) {
  if (self == NULL) return;
  s3_credentials_leave(self->client->credentials, &self->identity_wait);
  s3_hash_cancel(self->hashing);
  loop_timer_stop(self->client->on, self->timer);
  http_transfer_free(self->transfer);
  s3_check_end(&self->check);
  http_headers_free(&self->query);
  http_headers_free(&self->headers);
  bytes_free(&self->url);
  bytes_free(&self->body);
  free(self->key);
  s3_client_release(self->client);
  free(self);
}
