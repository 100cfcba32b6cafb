/* sign.c: see sign.h. The order of the steps is that of the specification: canonical request,
 * string to sign, signing key, signature. */
#include "s3/sign.h"

#include <ctype.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include "http/uri.h"

/* One name and value that are sorted into the canonical query or the canonical headers. */
typedef struct pair {
  char *name;
  char *value;
  size_t order; /* equal names keep their order as headers, and are sorted by value in a query */
} pair;

typedef struct pairs {
  pair *items;
  size_t count, capacity;
  bool failed;
} pairs;

typedef struct work {
  const sign_request *request;
  sign_result *result;
  uri_parts url;
  char time[SIGN_TIME_LENGTH + 1]; /* 20150830T123600Z */
  char scope[256];                 /* 20150830/us-east-1/s3/aws4_request */
  char payload[SIGN_HEX_LENGTH + 1];
  pairs headers, query;
  bytes signed_names;
} work;

void sign_hex(const unsigned char *data, size_t length, char *out) {
  static const char DIGITS[] = "0123456789abcdef";
  for (size_t i = 0; i < length; i++) {
    out[2 * i] = DIGITS[data[i] >> 4];
    out[2 * i + 1] = DIGITS[data[i] & 15];
  }
  out[2 * length] = '\0';
}

void sign_sha256_hex(const void *data, size_t length, char out[SIGN_HEX_LENGTH + 1]) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(data, length, digest);
  sign_hex(digest, sizeof digest, out);
}

/* Takes both; either may be NULL after a lack of memory. */
static void pairs_take(pairs *self, char *name, char *value) {
  if (self->count == self->capacity && !self->failed) {
    size_t capacity = self->capacity == 0 ? 16 : self->capacity * 2;
    pair *items = realloc(self->items, capacity * sizeof *items);
    if (items == NULL) self->failed = true;
    if (items != NULL) self->items = items, self->capacity = capacity;
  }
  if (self->failed || name == NULL || value == NULL) {
    self->failed = true;
    free(name);
    free(value);
    return;
  }
  self->items[self->count] = (pair){name, value, self->count};
  self->count++;
}

static void pairs_free(pairs *self) {
  for (size_t i = 0; i < self->count; i++)
    free(self->items[i].name), free(self->items[i].value);
  free(self->items);
}

static int compare_headers(const void *a, const void *b) {
  const pair *left = a, *right = b;
  int order = strcmp(left->name, right->name);
  if (order != 0) return order;
  return left->order < right->order ? -1 : 1;
}

static int compare_query(const void *a, const void *b) {
  const pair *left = a, *right = b;
  int order = strcmp(left->name, right->name);
  return order != 0 ? order : strcmp(left->value, right->value);
}

static char *encoded(const char *data, size_t length) {
  bytes out = {0};
  uri_encode(&out, data, length, false);
  if (out.length == 0 && !out.failed) bytes_append_text(&out, "");
  return bytes_detach(&out);
}

/* Decoded first, so that "%7e" and "~" are one. */
static char *reencoded(const char *data, size_t length) {
  bytes plain = {0};
  if (!uri_decode(&plain, data, length)) return NULL;
  char *out = encoded(bytes_text(&plain), plain.length);
  bytes_free(&plain);
  return out;
}

static void add_query(work *self, const char *name, const char *value) {
  pairs_take(&self->query, encoded(name, strlen(name)), encoded(value, strlen(value)));
}

static void take_query(work *self) {
  const char *at = self->url.query.data, *end = at + self->url.query.length;
  while (at < end) {
    const char *stop = memchr(at, '&', (size_t)(end - at));
    if (stop == NULL) stop = end;
    const char *equals = memchr(at, '=', (size_t)(stop - at));
    const char *name_end = equals == NULL ? stop : equals;
    const char *value = equals == NULL ? stop : equals + 1;
    if (stop > at) {
      pairs_take(&self->query, reencoded(at, (size_t)(name_end - at)),
                 reencoded(value, (size_t)(stop - value)));
    }
    at = stop + 1;
  }
}

/* Lower case; trimmed; each run of white space inside is one space. */
static void add_header(work *self, const char *name, const char *value) {
  char *lower = strdup(name), *trimmed = malloc(strlen(value) + 1);
  for (char *c = lower; c != NULL && *c != '\0'; c++)
    *c = (char)tolower((unsigned char)*c);
  if (trimmed != NULL) {
    char *to = trimmed;
    for (const char *c = value; *c != '\0'; c++) {
      if (!isspace((unsigned char)*c)) {
        *to++ = *c;
      } else if (to > trimmed && to[-1] != ' ') {
        *to++ = ' ';
      }
    }
    while (to > trimmed && to[-1] == ' ')
      to--;
    *to = '\0';
  }
  pairs_take(&self->headers, lower, trimmed);
}

/* Headers that a proxy or libcurl may add, change or drop on the way. */
static bool is_left_out(const char *name) {
  static const char *const NAMES[] = {
      "authorization", "connection", "expect",          "te", "transfer-encoding",
      "upgrade",       "user-agent", "x-amzn-trace-id", NULL};
  for (int i = 0; NAMES[i] != NULL; i++) {
    if (strcasecmp(NAMES[i], name) == 0) return true;
  }
  return false;
}

/* Adds a header that is sent, and signed as well. */
static bool send_header(work *self, const char *name, const char *value) {
  add_header(self, name, value);
  return http_headers_add(&self->result->added, name, value);
}

static bool has_header(const work *self, const char *name) {
  return self->request->headers != NULL && http_headers_get(self->request->headers, name) != NULL;
}

static bool take_headers(work *self) {
  const sign_request *request = self->request;
  size_t count = request->headers == NULL ? 0 : request->headers->count;
  for (size_t i = 0; i < count; i++) {
    const http_header *header = &request->headers->items[i];
    /* In the query form the time stands in the query, which is what the server reads. */
    bool elsewhere = request->in_query && strcasecmp(header->name, "x-amz-date") == 0;
    if (!elsewhere && !is_left_out(header->name)) add_header(self, header->name, header->value);
  }
  if (!has_header(self, "host")) {
    char *host = strndup(self->url.host.data, self->url.host.length);
    if (host == NULL) return false;
    add_header(self, "host", host);
    free(host);
  }
  bool well = true;
  if (request->sign_body && !has_header(self, "x-amz-content-sha256"))
    well = send_header(self, "X-Amz-Content-Sha256", self->payload);
  if (well && !request->in_query && !has_header(self, "x-amz-date"))
    well = send_header(self, "X-Amz-Date", self->time);
  if (well && !request->in_query && request->session_token != NULL &&
      !request->omit_session_token && !has_header(self, "x-amz-security-token"))
    well = send_header(self, "X-Amz-Security-Token", request->session_token);
  if (self->headers.count > 0)
    qsort(self->headers.items, self->headers.count, sizeof(pair), compare_headers);
  return well && !self->headers.failed;
}

static void write_path(work *self, bytes *out) {
  const sign_request *request = self->request;
  uri_span path = self->url.path;
  bytes normal = {0}, plain = {0};
  if (request->normalize_path) {
    uri_normalize_path(&normal, path.data, path.length);
    path = (uri_span){bytes_text(&normal), normal.length};
  }
  if (request->encode_once) {
    uri_decode(&plain, path.data, path.length);
  } else {
    bytes_append(&plain, path.data, path.length);
  }
  if (plain.length == 0) bytes_append_char(&plain, '/');
  uri_encode(out, bytes_text(&plain), plain.length, true);
  out->failed |= plain.failed || normal.failed;
  bytes_free(&normal);
  bytes_free(&plain);
}

static void write_query(const work *self, bytes *out) {
  for (size_t i = 0; i < self->query.count; i++) {
    if (i > 0) bytes_append_char(out, '&');
    bytes_append_text(out, self->query.items[i].name);
    bytes_append_char(out, '=');
    bytes_append_text(out, self->query.items[i].value);
  }
}

static void write_headers(const work *self, bytes *out) {
  const pair *items = self->headers.items;
  for (size_t i = 0; i < self->headers.count; i++) {
    bool repeated = i > 0 && strcmp(items[i].name, items[i - 1].name) == 0;
    if (repeated) {
      bytes_append_char(out, ',');
    } else {
      if (i > 0) bytes_append_char(out, '\n');
      bytes_append_text(out, items[i].name);
      bytes_append_char(out, ':');
    }
    bytes_append_text(out, items[i].value);
  }
  bytes_append_text(out, "\n\n");
}

static void name_headers(work *self) {
  const pair *items = self->headers.items;
  for (size_t i = 0; i < self->headers.count; i++) {
    if (i > 0 && strcmp(items[i].name, items[i - 1].name) == 0) continue;
    if (i > 0) bytes_append_char(&self->signed_names, ';');
    bytes_append_text(&self->signed_names, items[i].name);
  }
}

/* The parameters of the query form, which are signed as part of the query. */
static void add_signing_query(work *self) {
  const sign_request *request = self->request;
  bytes text = {0};
  bytes_format(&text, "%s/%s", request->access_key_id, self->scope);
  add_query(self, "X-Amz-Algorithm", "AWS4-HMAC-SHA256");
  add_query(self, "X-Amz-Credential", bytes_text(&text));
  add_query(self, "X-Amz-Date", self->time);
  add_query(self, "X-Amz-SignedHeaders", bytes_text(&self->signed_names));
  if (request->expires > 0) {
    bytes_clear(&text);
    bytes_format(&text, "%lld", (long long)request->expires);
    add_query(self, "X-Amz-Expires", bytes_text(&text));
  }
  if (request->session_token != NULL && !request->omit_session_token)
    add_query(self, "X-Amz-Security-Token", request->session_token);
  self->query.failed |= text.failed;
  bytes_free(&text);
}

static bool write_canonical(work *self) {
  bytes *out = &self->result->canonical_request;
  bytes_append_text(out, self->request->method);
  bytes_append_char(out, '\n');
  write_path(self, out);
  bytes_append_char(out, '\n');
  write_query(self, out);
  bytes_append_char(out, '\n');
  write_headers(self, out);
  bytes_append(out, bytes_text(&self->signed_names), self->signed_names.length);
  bytes_append_char(out, '\n');
  bytes_append_text(out, self->payload);
  return !out->failed && !self->query.failed && !self->signed_names.failed;
}

static void hmac(const void *key, size_t key_length, const char *text, unsigned char out[32]) {
  HMAC(EVP_sha256(), key, (int)key_length, (const unsigned char *)text, strlen(text), out, NULL);
}

static bool derive_key(const work *self, unsigned char key[32]) {
  const sign_request *request = self->request;
  char date[9];
  memcpy(date, self->time, 8);
  date[8] = '\0';
  bytes secret = {0};
  bytes_append_text(&secret, "AWS4");
  bytes_append_text(&secret, request->secret_access_key);
  bool well = !secret.failed;
  if (well) {
    hmac(secret.data, secret.length, date, key);
    hmac(key, 32, request->region, key);
    hmac(key, 32, request->service, key);
    hmac(key, 32, "aws4_request", key);
  }
  if (secret.data != NULL) OPENSSL_cleanse(secret.data, secret.length);
  bytes_free(&secret);
  return well;
}

static bool compute_signature(work *self) {
  const sign_request *request = self->request;
  bytes *text = &self->result->string_to_sign;
  char digest[SIGN_HEX_LENGTH + 1];
  const bytes *canonical = &self->result->canonical_request;
  sign_sha256_hex(canonical->data, canonical->length, digest);
  bytes_format(text, "AWS4-HMAC-SHA256\n%s\n%s\n%s", self->time, self->scope, digest);
  if (text->failed) return false;

  sign_key fresh = {0}, *kept = request->key != NULL ? request->key : &fresh;
  if (strcmp(kept->scope, self->scope) != 0) {
    if (!derive_key(self, kept->key)) return false;
    memcpy(kept->scope, self->scope, sizeof kept->scope);
  }
  unsigned char signature[32];
  hmac(kept->key, sizeof kept->key, text->data, signature);
  sign_hex(signature, sizeof signature, self->result->signature);
  OPENSSL_cleanse(&fresh, sizeof fresh);
  return true;
}

static bool write_authorization(work *self) {
  const sign_request *request = self->request;
  sign_result *result = self->result;
  bytes text = {0};
  bytes_format(&text, "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s",
               request->access_key_id, self->scope, bytes_text(&self->signed_names),
               result->signature);
  bool well = !text.failed && http_headers_add(&result->added, "Authorization", bytes_text(&text));
  bytes_free(&text);
  if (well && request->session_token != NULL && request->omit_session_token)
    well = http_headers_add(&result->added, "X-Amz-Security-Token", request->session_token);
  return well;
}

/* scheme://host/path?query, the query in its canonical form: what was signed is what is sent. */
static bool write_url(work *self) {
  const sign_request *request = self->request;
  bytes *url = &self->result->url;
  uri_span path = self->url.path;
  bytes_append(url, request->url, (size_t)(path.data - request->url));
  if (request->encode_once) {
    write_path(self, url);
  } else {
    if (path.length == 0) bytes_append_char(url, '/');
    bytes_append(url, path.data, path.length);
  }
  if (self->query.count > 0) {
    bytes_append_char(url, '?');
    write_query(self, url);
  }
  if (request->in_query) bytes_format(url, "&X-Amz-Signature=%s", self->result->signature);
  if (request->in_query && request->session_token != NULL && request->omit_session_token) {
    bytes_append_text(url, "&X-Amz-Security-Token=");
    uri_encode(url, request->session_token, strlen(request->session_token), false);
  }
  return !url->failed;
}

static bool prepare(work *self) {
  const sign_request *request = self->request;
  time_t seconds = (time_t)request->time;
  struct tm utc;
  if (gmtime_r(&seconds, &utc) == NULL || utc.tm_year < 0 || utc.tm_year > 8099) return false;
  strftime(self->time, sizeof self->time, "%Y%m%dT%H%M%SZ", &utc);
  snprintf(self->scope, sizeof self->scope, "%.8s/%s/%s/aws4_request", self->time, request->region,
           request->service);
  if (request->payload_hash != NULL) {
    snprintf(self->payload, sizeof self->payload, "%s", request->payload_hash);
  } else {
    sign_sha256_hex(request->body == NULL ? "" : request->body, request->body_length,
                    self->payload);
  }
  return true;
}

sign_status sign_make(const sign_request *request, sign_result *result) {
  work self = {.request = request, .result = result};
  if (!uri_split(request->url, &self.url)) return SIGN_BAD_URL;
  if (!prepare(&self)) return SIGN_BAD_TIME;
  bool well = take_headers(&self);
  if (well) {
    name_headers(&self);
    take_query(&self);
    if (request->in_query) add_signing_query(&self);
    if (self.query.count > 0)
      qsort(self.query.items, self.query.count, sizeof(pair), compare_query);
    well = write_canonical(&self) && compute_signature(&self) && write_url(&self);
  }
  if (well && !request->in_query) well = write_authorization(&self);
  pairs_free(&self.headers);
  pairs_free(&self.query);
  bytes_free(&self.signed_names);
  return well ? SIGN_OK : SIGN_NO_MEMORY;
}

void sign_result_free(sign_result *result) {
  bytes_free(&result->canonical_request);
  bytes_free(&result->string_to_sign);
  bytes_free(&result->url);
  http_headers_free(&result->added);
  *result = (sign_result){0};
}
