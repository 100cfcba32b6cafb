/* transfer.c: see transfer.h. What libcurl calls while it works on one easy handle, and how the end
 * of an exchange is told. */
#include "http/transfer.h"
#include "http/client_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
  HEADER_BYTES_MOST = 256 * 1024,
  RESERVE_MOST = 64 * 1024 * 1024, /* how far a stated length is believed before bytes come */
  BUFFER = 32 * 1024,
  BULK_BUFFER = 128 * 1024, /* larger ones save few calls and cost more page faults */
};

#define NOT_SENT_SECONDS 0.05 /* how often a request is looked at that is not out at its limit */

/* See http_transfer_where. */
static char *describe(const char *method, const char *url) {
  bytes text = {0};
  bytes_append_text(&text, method);
  bytes_append_char(&text, ' ');
  const char *end = url + strcspn(url, "?#");
  const char *authority = strstr(url, "://");
  if (authority != NULL && authority < end) {
    authority += 3;
    const char *path = authority + strcspn(authority, "/?#");
    bytes_append(&text, url, (size_t)(authority - url));
    for (const char *c = authority; c < path; c++) {
      if (*c == '@') authority = c + 1;
    }
    bytes_append(&text, authority, (size_t)(end - authority));
  } else {
    bytes_append(&text, url, (size_t)(end - url));
  }
  if (text.length > 256) bytes_clear(&text), bytes_format(&text, "%s (a long URL)", method);
  return bytes_detach(&text);
}

static void start_of_answer(http_transfer *self, const char *line) {
  const char *status = strchr(line, ' ');
  self->response.status = status == NULL ? 0 : atoi(status + 1);
  http_headers_clear(&self->response.headers);
}

static bool take_header(http_transfer *self, const char *line, size_t length) {
  http_headers *headers = &self->response.headers;
  const char *colon = memchr(line, ':', length);
  if (colon == NULL || headers->bytes + length > HEADER_BYTES_MOST) {
    self->too_large = colon != NULL;
    return colon == NULL;
  }
  const char *value = colon + 1, *end = line + length;
  while (value < end && isspace((unsigned char)*value))
    value++;
  while (end > value && isspace((unsigned char)end[-1]))
    end--;
  size_t name_length = (size_t)(colon - line);
  if (!http_headers_add_n(headers, line, name_length, value, (size_t)(end - value))) {
    self->no_memory = true;
    return false;
  }
  char *name = headers->items[headers->count - 1].name;
  for (; *name != '\0'; name++)
    *name = (char)tolower((unsigned char)*name);
  return true;
}

/* The headers are complete: sizes the body, tells the owner. */
static bool end_of_head(http_transfer *self) {
  http_response *response = &self->response;
  if (self->answered || response->status < 200) return true;
  if (self->request.follow_redirects && response->status / 100 == 3 &&
      http_headers_get(&response->headers, "location") != NULL)
    return true;
  self->answered = true;
  const char *stated = http_headers_get(&response->headers, "content-length");
  if (stated != NULL && self->request.push == NULL) {
    unsigned long long length = strtoull(stated, NULL, 10);
    if (length > 0 && length <= RESERVE_MOST && !bytes_reserve(&response->body, (size_t)length)) {
      self->no_memory = true;
      return false;
    }
  }
  if (self->request.on_head != NULL && !self->request.on_head(self, self->request.data)) {
    self->aborted = true;
    return false;
  }
  return true;
}

static size_t on_header(char *line, size_t size, size_t count, void *data) {
  http_transfer *self = data;
  size_t length = size * count;
  bool well = true;
  if (self->dropped) {
    well = false;
  } else if (length > 5 && strncasecmp(line, "HTTP/", 5) == 0) {
    start_of_answer(self, line);
  } else if (length <= 2) {
    well = end_of_head(self);
  } else {
    well = take_header(self, line, length);
  }
  return well ? length : 0;
}

static size_t on_body(char *data, size_t size, size_t count, void *user) {
  http_transfer *self = user;
  size_t length = size * count;
  if (self->dropped) return CURL_WRITEFUNC_ERROR;
  size_t limit = self->request.max_bytes;
  if (limit > 0 && (length > limit || self->received > limit - length)) {
    self->too_large = true;
    return CURL_WRITEFUNC_ERROR;
  }
  if (self->request.push == NULL) {
    self->received += length;
    if (bytes_append(&self->response.body, data, length)) return length;
    self->no_memory = true;
    return CURL_WRITEFUNC_ERROR;
  }
  switch (self->request.push(self->request.data, data, length)) {
  case HTTP_TAKEN: self->received += length; return length;
  case HTTP_TAKE_LATER: return CURL_WRITEFUNC_PAUSE;
  case HTTP_TAKE_ABORT: break;
  }
  self->aborted = true;
  return CURL_WRITEFUNC_ERROR;
}

static size_t on_pull(char *into, size_t size, size_t count, void *data) {
  http_transfer *self = data;
  size_t got = HTTP_PULL_ABORT;
  if (!self->dropped) got = self->request.pull(self->request.data, into, size * count);
  if (got == HTTP_PULL_LATER) return CURL_READFUNC_PAUSE;
  if (got != HTTP_PULL_ABORT) return got;
  self->aborted = true;
  return CURL_READFUNC_ABORT;
}

/* ---- the wait for a first byte ---- */

static void wait_first_byte(http_transfer *self, double seconds);

/* Since when the whole request is out; 0: it is not. A body's last byte is noted as it goes. */
static uint64_t when_sent(http_transfer *self) {
  curl_off_t connected = 0;
  bool bare = self->request.body_length == 0 && self->request.pull == NULL;
  if (self->sent_at != 0 || !bare) return self->sent_at;
  curl_easy_getinfo(self->easy, CURLINFO_PRETRANSFER_TIME_T, &connected);
  return connected == 0 ? 0 : self->started_at + (uint64_t)connected * 1000;
}

static void check_first_byte(void *data) {
  http_transfer *self = data;
  double limit = self->request.first_byte_timeout, left = limit;
  self->first_byte = NULL;
  if (self->response.status > 0 || self->finished) return;
  uint64_t sent_at = when_sent(self);
  if (sent_at != 0) left = limit - (double)(uv_hrtime() - sent_at) / 1e9;
  if (left > 0) {
    wait_first_byte(self, sent_at == 0 && left > NOT_SENT_SECONDS ? NOT_SENT_SECONDS : left);
    return;
  }
  self->late = true;
  http_transfer_finish(self, CURLE_OPERATION_TIMEDOUT);
}

static void wait_first_byte(http_transfer *self, double seconds) {
  self->first_byte = loop_timer_start(self->client->on, seconds, check_first_byte, self);
}

/* libcurl calls this as bytes move: ends a dropped transfer, notes when a body is out. */
static int on_progress(void *data, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                       curl_off_t up) {
  (void)down_total, (void)down;
  http_transfer *self = data;
  if (self->dropped) return 1;
  if (self->sent_at == 0 && up > 0 && up >= up_total) self->sent_at = uv_hrtime();
  return 0;
}

static long milliseconds(double seconds) {
  if (seconds <= 0) return 0;
  return seconds >= 1e6 ? 1000000000L : seconds < 0.001 ? 1L : (long)(seconds * 1000);
}

static void set_body(http_transfer *self, const http_request *request) {
  CURL *easy = self->easy;
  if (request->pull != NULL) {
    curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_pull);
    curl_easy_setopt(easy, CURLOPT_READDATA, self);
    curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->pull_length);
  } else if (request->body != NULL) {
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_length);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body);
  }
  if (strcmp(request->method, "HEAD") == 0) {
    curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
  } else if (strcmp(request->method, "GET") != 0 || request->body != NULL ||
             request->pull != NULL) {
    /* A redirect of a POST becomes a GET only where libcurl chose the method itself. */
    bool plain_post = strcmp(request->method, "POST") == 0 && request->body != NULL;
    if (!plain_post) curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
  }
  curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)(request->bulk ? BULK_BUFFER : BUFFER));
  if (request->bulk) {
    curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, (long)BULK_BUFFER);
  }
}

static bool add_line(http_transfer *self, const char *line) {
  struct curl_slist *lines = curl_slist_append(self->lines, line);
  if (lines == NULL) return false;
  self->lines = lines;
  return true;
}

static bool set_headers(http_transfer *self, const http_request *request) {
  bool type = false, expect = false;
  bytes line = {0};
  for (size_t i = 0; request->headers != NULL && i < request->headers->count; i++) {
    const http_header *header = &request->headers->items[i];
    type |= strcasecmp(header->name, "content-type") == 0;
    expect |= strcasecmp(header->name, "expect") == 0;
    bytes_clear(&line);
    /* libcurl writes "Name;" as a header without a value and takes "Name:" for a removal. */
    if (header->value[0] == '\0') {
      bytes_format(&line, "%s;", header->name);
    } else {
      bytes_format(&line, "%s: %s", header->name, header->value);
    }
    if (line.failed || !add_line(self, bytes_text(&line))) {
      bytes_free(&line);
      return false;
    }
  }
  bytes_free(&line);
  if (!type && !add_line(self, "Content-Type:")) return false;
  if (!expect && !add_line(self, "Expect:")) return false;
  curl_easy_setopt(self->easy, CURLOPT_HTTPHEADER, self->lines);
  return true;
}

static void set_options(http_transfer *self, const http_request *request) {
  CURL *easy = self->easy;
  curl_easy_setopt(easy, CURLOPT_PRIVATE, self);
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, self->curl_message);
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* a cancel does not wait for a name server */
  curl_easy_setopt(easy, CURLOPT_URL, request->url);
  curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L); /* "a/../b" is a key, not a path to resolve */
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
  curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, self);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, self);
  if (request->follow_redirects) {
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(easy, CURLOPT_MAXREDIRS, 10L);
  }
  if (request->first_byte_timeout > 0) {
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(easy, CURLOPT_XFERINFODATA, self);
  }
  if (request->connect_timeout > 0)
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, milliseconds(request->connect_timeout));
  if (request->total_timeout > 0)
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, milliseconds(request->total_timeout));
  if (request->stall_timeout > 0) {
    long seconds = request->stall_timeout < 1 ? 1L : (long)(request->stall_timeout + 0.5);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT,
                     request->low_speed > 1 ? (long)request->low_speed : 1L);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, seconds);
  }
  if (request->proxy != NULL) curl_easy_setopt(easy, CURLOPT_PROXY, request->proxy);
  if (request->ca_file != NULL) curl_easy_setopt(easy, CURLOPT_CAINFO, request->ca_file);
  set_body(self, request);
}

http_transfer *http_transfer_start(http_client *client, const http_request *request) {
  http_transfer *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->client = client;
  self->where = describe(request->method, request->url);
  self->easy = client->spares > 0 ? client->spare[--client->spares] : curl_easy_init();
  if (self->easy == NULL || self->where == NULL || !set_headers(self, request)) goto failed;
  set_options(self, request);
  self->request = *request;
  self->request.url = self->request.method = NULL; /* libcurl has its own copies */
  self->request.headers = NULL;
  if (curl_multi_add_handle(client->multi, self->easy) != CURLM_OK) goto failed;
  self->next = client->first;
  if (self->next != NULL) self->next->previous = self;
  client->first = self;
  self->started_at = uv_hrtime();
  if (request->first_byte_timeout > 0) wait_first_byte(self, request->first_byte_timeout);
  return self;
failed:
  if (self->easy != NULL) http_client_recycle(client, self->easy);
  curl_slist_free_all(self->lines);
  free(self->where);
  free(self);
  return NULL;
}

const char *http_transfer_where(const http_transfer *self) {
  return self->where;
}

http_response *http_transfer_response(http_transfer *self) {
  return &self->response;
}

static http_outcome outcome_of(const http_transfer *self, CURLcode code) {
  if (self->client->closing) return HTTP_CANCELLED;
  if (self->no_memory) return HTTP_NO_MEMORY;
  if (self->too_large) return HTTP_TOO_LARGE;
  if (self->late) return HTTP_TIMED_OUT;
  if (self->aborted) return HTTP_ABORTED;
  switch (code) {
  case CURLE_OK: return HTTP_DONE;
  case CURLE_OUT_OF_MEMORY: return HTTP_NO_MEMORY;
  case CURLE_OPERATION_TIMEDOUT: return HTTP_TIMED_OUT;
  case CURLE_FILESIZE_EXCEEDED: return HTTP_TOO_LARGE;
  case CURLE_URL_MALFORMAT:
  case CURLE_UNSUPPORTED_PROTOCOL:
  case CURLE_SSL_CACERT_BADFILE:
  case CURLE_BAD_FUNCTION_ARGUMENT: return HTTP_REFUSED;
  case CURLE_COULDNT_RESOLVE_PROXY:
  case CURLE_COULDNT_RESOLVE_HOST:
  case CURLE_COULDNT_CONNECT:
  case CURLE_SSL_CONNECT_ERROR: return HTTP_NOT_CONNECTED;
  case CURLE_PEER_FAILED_VERIFICATION: return HTTP_UNTRUSTED;
  default: return HTTP_FAILED;
  }
}

static void explain(http_transfer *self, CURLcode code) {
  http_response *response = &self->response;
  const char *why = self->curl_message[0] != '\0' ? self->curl_message : curl_easy_strerror(code);
  char limit[80];
  switch (response->outcome) {
  case HTTP_DONE: return;
  case HTTP_TOO_LARGE:
    snprintf(limit, sizeof limit, "the answer's %s is larger than the limit of %zu bytes",
             self->answered ? "body" : "head",
             self->answered ? self->request.max_bytes : (size_t)HEADER_BYTES_MOST);
    why = limit;
    break;
  case HTTP_TIMED_OUT:
    if (!self->late) break;
    snprintf(limit, sizeof limit, "no answer within %g s after the request was sent",
             self->request.first_byte_timeout);
    why = limit;
    break;
  case HTTP_CANCELLED: why = "the client was closed"; break;
  case HTTP_NO_MEMORY: why = "out of memory"; break;
  default: break;
  }
  snprintf(response->message, sizeof response->message, "%s: %s", self->where, why);
}

static void release_easy(http_transfer *self) {
  if (self->easy == NULL) return;
  loop_timer_stop(self->client->on, self->first_byte);
  self->first_byte = NULL;
  curl_multi_remove_handle(self->client->multi, self->easy);
  http_client_recycle(self->client, self->easy);
  self->easy = NULL;
}

void http_transfer_finish(http_transfer *self, CURLcode code) {
  self->response.outcome = outcome_of(self, code);
  self->finished = true;
  explain(self, code);
  release_easy(self);
  self->request.on_done(self, self->request.data);
}

void http_transfer_resume(http_transfer *self) {
  if (self->easy == NULL || self->finished) return;
  http_client *client = self->client;
  if (client->inside > 0) {
    self->resume = true;
    loop_defer(client->on, &client->deferred);
    return;
  }
  client->inside++;
  curl_easy_pause(self->easy, CURLPAUSE_CONT);
  client->inside--;
}

void http_transfer_destroy(http_transfer *self) {
  http_client *client = self->client;
  if (client != NULL) {
    release_easy(self);
    if (self->previous != NULL) self->previous->next = self->next;
    if (self->next != NULL) self->next->previous = self->previous;
    if (client->first == self) client->first = self->next;
  }
  curl_slist_free_all(self->lines);
  http_headers_free(&self->response.headers);
  bytes_free(&self->response.body);
  free(self->where);
  free(self);
}

void http_transfer_free(http_transfer *self) {
  if (self == NULL) return;
  if (self->client != NULL && self->client->inside > 0) {
    self->dropped = true;
    self->finished = true;
    loop_defer(self->client->on, &self->client->deferred);
    return;
  }
  http_transfer_destroy(self);
}
