/* httpd.c: see httpd.h.
 *
 * libmicrohttpd polls an epoll of its own, whose descriptor the loop watches; a timer stands for
 * its timeouts. A connection is suspended while its request waits for an answer. A request is freed
 * once both sides have let go of it: MHD (`connected`) and whoever took it (`held`). */
#include "httpd.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <microhttpd.h>

static const char ENDING[] = "ending\n";
enum { MOST_CONNECTIONS = 64, IDLE_SECONDS = 30, MOST_HEADERS = 16 };

struct httpd_request {
  httpd *server; /* NULL once that is closed */
  struct MHD_Connection *connection;
  char *method, *path, *body;
  size_t length;
  bool too_long, queued, connected, held;
  struct MHD_Response *response;
  struct {
    char *name, *value;
  } headers[MOST_HEADERS];
  size_t header_count;
  unsigned status;
  httpd_request *before, *after; /* of the server's list */
};

struct httpd {
  struct MHD_Daemon *daemon;
  uv_poll_t poll;
  uv_timer_t timer;
  bool ending; /* no request is taken any longer */
  int closing; /* handles that have still to close */
  size_t max_body;
  httpd_request *first, *last; /* every request that is connected, the oldest first */
  httpd_queued_fn *queued;
  void *data;
  unsigned short port;
};

/* ---- requests ---- */

static void request_free(httpd_request *self) {
  if (self->connected || self->held) return;
  if (self->response != NULL) MHD_destroy_response(self->response);
  for (size_t i = 0; i < self->header_count; i++) {
    free(self->headers[i].name);
    free(self->headers[i].value);
  }
  free(self->method);
  free(self->path);
  free(self->body);
  free(self);
}

static httpd_request *request_new(httpd *server, struct MHD_Connection *connection,
                                  const char *path, const char *method) {
  httpd_request *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  *self = (httpd_request){.server = server,
                          .connection = connection,
                          .method = strdup(method),
                          .path = strdup(path),
                          .connected = true,
                          .before = server->last};
  if (self->method == NULL || self->path == NULL) {
    self->connected = false;
    request_free(self);
    return NULL;
  }
  *(server->last != NULL ? &server->last->after : &server->first) = self;
  server->last = self;
  return self;
}

static void completed(void *data, struct MHD_Connection *connection, void **slot,
                      enum MHD_RequestTerminationCode why) {
  (void)connection, (void)why;
  httpd *server = data;
  httpd_request *self = *slot;
  if (self == NULL) return;
  *slot = NULL;
  *(self->before != NULL ? &self->before->after : &server->first) = self->after;
  *(self->after != NULL ? &self->after->before : &server->last) = self->before;
  self->connected = false;
  self->server = NULL;
  request_free(self);
}

static void append(httpd_request *self, const char *bytes, size_t length) {
  if (self->too_long || length > self->server->max_body - self->length) {
    self->too_long = true;
    return;
  }
  char *body = realloc(self->body, self->length + length);
  if (body == NULL) {
    self->too_long = true;
    return;
  }
  memcpy(body + self->length, bytes, length);
  self->body = body;
  self->length += length;
}

static void respond(httpd_request *self, unsigned status, const char *body, size_t length) {
  self->status = status;
  struct MHD_Response *response =
      MHD_create_response_from_buffer(length, (void *)(uintptr_t)body, MHD_RESPMEM_MUST_COPY);
  if (response == NULL) return;
  for (size_t i = 0; i < self->header_count; i++)
    MHD_add_response_header(response, self->headers[i].name, self->headers[i].value);
  self->response = response;
}

static void respond_text(httpd_request *self, unsigned status, const char *text) {
  respond(self, status, text, strlen(text));
}

/* MHD's callback: first with the head, then with pieces of the body, then with none; and once more
 * after the connection was resumed. */
static enum MHD_Result handle(void *data, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_size, void **slot) {
  (void)version;
  httpd *server = data;
  httpd_request *self = *slot;
  if (self == NULL) {
    *slot = request_new(server, connection, url, method);
    return *slot != NULL ? MHD_YES : MHD_NO;
  }
  if (*upload_size > 0) {
    append(self, upload, *upload_size);
    *upload_size = 0;
    return MHD_YES;
  }
  if (self->status == 0 && self->too_long) {
    respond_text(self, MHD_HTTP_CONTENT_TOO_LARGE, "the body is too long\n");
  }
  if (self->status == 0 && server->ending) {
    respond_text(self, MHD_HTTP_SERVICE_UNAVAILABLE, ENDING);
  }
  if (self->response == NULL && self->status != 0) return MHD_NO; /* no memory for the answer */
  if (self->response != NULL) return MHD_queue_response(connection, self->status, self->response);
  self->queued = true;
  MHD_suspend_connection(connection);
  server->queued(server->data);
  return MHD_YES;
}

/* ---- the loop ---- */

static void turn(httpd *self);

static void timed_out(uv_timer_t *timer) {
  turn(timer->data);
}

static void turn(httpd *self) {
  MHD_run(self->daemon);
  MHD_UNSIGNED_LONG_LONG wait;
  if (MHD_get_timeout(self->daemon, &wait) == MHD_YES) {
    uv_timer_start(&self->timer, timed_out, wait, 0);
  } else {
    uv_timer_stop(&self->timer);
  }
}

static void ready(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  turn(poll->data);
}

/* ---- what the owner does ---- */

httpd_request *httpd_take(httpd *self) {
  for (httpd_request *request = self->first; request != NULL; request = request->after) {
    if (!request->queued) continue;
    request->queued = false;
    request->held = true;
    return request;
  }
  return NULL;
}

const char *httpd_method(const httpd_request *request) {
  return request->method;
}

const char *httpd_path(const httpd_request *request) {
  return request->path;
}

const char *httpd_body(const httpd_request *request, size_t *length) {
  *length = request->length;
  return request->body != NULL ? request->body : "";
}

typedef struct visit {
  httpd_header_fn *each;
  void *data;
} visit;

static enum MHD_Result visit_header(void *data, enum MHD_ValueKind kind, const char *name,
                                    const char *value) {
  (void)kind;
  visit *self = data;
  self->each(self->data, name, value != NULL ? value : "");
  return MHD_YES;
}

void httpd_headers(const httpd_request *request, httpd_header_fn *each, void *data) {
  if (request->server == NULL) return;
  MHD_get_connection_values(request->connection, MHD_HEADER_KIND, visit_header,
                            &(visit){.each = each, .data = data});
}

bool httpd_set_header(httpd_request *request, const char *name, const char *value) {
  if (request->header_count == MOST_HEADERS) return false;
  if (name[strcspn(name, " :\r\n\t")] != 0 || value[strcspn(value, "\r\n")] != 0) return false;
  char *own_name = strdup(name), *own_value = strdup(value);
  if (own_name == NULL || own_value == NULL) {
    free(own_name);
    free(own_value);
    return false;
  }
  request->headers[request->header_count].name = own_name;
  request->headers[request->header_count++].value = own_value;
  return true;
}

void httpd_answer(httpd_request *request, unsigned status, const char *body, size_t length) {
  httpd *server = request->server;
  request->held = false;
  if (server == NULL) {
    request_free(request);
    return;
  }
  respond(request, status, body, length);
  MHD_resume_connection(request->connection);
  uv_timer_start(&server->timer, timed_out, 0, 0);
}

void httpd_drop(httpd_request *request) {
  static const char text[] = "no answer\n";
  httpd_answer(request, MHD_HTTP_INTERNAL_SERVER_ERROR, text, sizeof text - 1);
}

unsigned short httpd_port(const httpd *self) {
  return self->port;
}

/* ---- opening and closing ---- */

static void handle_closed(uv_handle_t *handle) {
  httpd *self = handle->data;
  if (--self->closing == 0) free(self);
}

static struct MHD_Daemon *start(httpd *self, const struct addrinfo *address) {
  unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME;
  if (address->ai_family == AF_INET6) flags |= MHD_USE_IPv6;
  struct MHD_OptionItem options[] = {
      {MHD_OPTION_SOCK_ADDR, 0, address->ai_addr},
      {MHD_OPTION_CONNECTION_LIMIT, MOST_CONNECTIONS, NULL},
      {MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS, NULL},
      {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)completed, self},
      {MHD_OPTION_END, 0, NULL},
  };
  return MHD_start_daemon(flags, 0, NULL, NULL, handle, self, MHD_OPTION_ARRAY, options,
                          MHD_OPTION_END);
}

httpd *httpd_open(uv_loop_t *loop, const char *host, unsigned short port, size_t max_body,
                  httpd_queued_fn *queued, void *data, const char **problem) {
  char service[8];
  snprintf(service, sizeof service, "%hu", port);
  struct addrinfo wanted = {.ai_socktype = SOCK_STREAM,
                            .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE};
  struct addrinfo *address = NULL;
  if (getaddrinfo(host != NULL ? host : "127.0.0.1", service, &wanted, &address) != 0) {
    *problem = "not a numeric address";
    return NULL;
  }
  httpd *self = calloc(1, sizeof *self);
  if (self != NULL) {
    *self = (httpd){.max_body = max_body, .queued = queued, .data = data};
    self->daemon = start(self, address);
  }
  freeaddrinfo(address);
  if (self == NULL || self->daemon == NULL) {
    *problem = self == NULL ? "out of memory" : strerror(errno);
    free(self);
    return NULL;
  }
  self->port = MHD_get_daemon_info(self->daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
  int descriptor = MHD_get_daemon_info(self->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
  int rc = uv_poll_init(loop, &self->poll, descriptor);
  if (rc < 0) {
    *problem = uv_strerror(rc);
    MHD_stop_daemon(self->daemon);
    free(self);
    return NULL;
  }
  uv_timer_init(loop, &self->timer);
  self->poll.data = self->timer.data = self;
  uv_unref((uv_handle_t *)&self->timer);
  uv_poll_start(&self->poll, UV_READABLE, ready);
  return self;
}

/* libmicrohttpd ends the program where it is stopped with a request suspended: one that is only
 * read in its last turn is answered at once. */
void httpd_close(httpd *self) {
  self->ending = true;
  httpd_request *after;
  for (httpd_request *request = self->first; request != NULL; request = after) {
    after = request->after;
    if (!request->queued && !request->held) continue;
    request->queued = false;
    respond_text(request, MHD_HTTP_SERVICE_UNAVAILABLE, ENDING);
    MHD_resume_connection(request->connection);
  }
  MHD_run(self->daemon); /* resumed, and answered where the socket takes it at once */
  self->closing = 2;
  uv_close((uv_handle_t *)&self->poll, handle_closed);
  uv_close((uv_handle_t *)&self->timer, handle_closed);
  MHD_stop_daemon(self->daemon);
}
