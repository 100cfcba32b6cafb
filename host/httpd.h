/* httpd.h: a small HTTP server in the loop: libmicrohttpd over uv_poll, for metrics and health.
 *
 * Requests queue up until somebody takes them; each is answered once, later. Everything runs on the
 * loop's thread. A `httpd_request` belongs to whoever took it, until httpd_answer or httpd_drop. */
#ifndef NEBULA_HOST_HTTPD_H
#define NEBULA_HOST_HTTPD_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

typedef struct httpd httpd;
typedef struct httpd_request httpd_request;

/* Called from the loop when a request has been queued. */
typedef void httpd_queued_fn(void *data);

typedef void httpd_header_fn(void *data, const char *name, const char *value);

/* Listens on a numeric address ("127.0.0.1", "::", NULL: loopback); port 0 takes a free one. Bodies
 * longer than max_body are refused with 413. NULL on failure, *problem says why. */
httpd *httpd_open(uv_loop_t *loop, const char *host, unsigned short port, size_t max_body,
                  httpd_queued_fn *queued, void *data, const char **problem);

unsigned short httpd_port(const httpd *self);

/* The oldest request that nobody has taken, or NULL. */
httpd_request *httpd_take(httpd *self);

const char *httpd_method(const httpd_request *request);
const char *httpd_path(const httpd_request *request);
const char *httpd_body(const httpd_request *request, size_t *length);
void httpd_headers(const httpd_request *request, httpd_header_fn *each, void *data);

/* A header of the answer to come; false on a lack of memory or a name that is none. */
bool httpd_set_header(httpd_request *request, const char *name, const char *value);

/* Answers with a body that is copied, and gives the request back. */
void httpd_answer(httpd_request *request, unsigned status, const char *body, size_t length);

/* Gives it back unanswered: the client gets a 500. */
void httpd_drop(httpd_request *request);

/* Stops listening; what is under way gets a 503. Requests that were taken may still be answered or
 * dropped afterwards, to no effect. */
void httpd_close(httpd *self);

#endif
