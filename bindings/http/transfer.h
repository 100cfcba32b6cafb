/* transfer.h: one HTTP exchange, plain C with callbacks.
 *
 * A transfer is one easy handle of libcurl. It is started with a request, streams its body out of
 * memory or from `pull`, its answer into memory or into `push`, and calls `on_done` once, from the
 * loop, never from inside of http_transfer_start. Nothing is retried here, redirects are followed
 * only where that is asked for.
 *
 * The owner frees the transfer: after on_done, inside of it, or before it, which cancels: then no
 * callback runs any more. Everything may be called from any callback. */
#ifndef NEBULA_HTTP_TRANSFER_H
#define NEBULA_HTTP_TRANSFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "http/client.h"
#include "http/headers.h"

typedef struct http_transfer http_transfer;

typedef enum http_outcome {
  HTTP_DONE,          /* an answer came, whatever its status */
  HTTP_FAILED,        /* the connection broke, or the answer was no HTTP or cut short */
  HTTP_NOT_CONNECTED, /* no name, no connection, no TLS: the server saw nothing of the request */
  HTTP_UNTRUSTED, /* nobody whom we trust vouches for the server, which saw nothing of it either */
  HTTP_TIMED_OUT, /* one of the request's deadlines */
  HTTP_TOO_LARGE, /* the answer passed max_bytes */
  HTTP_ABORTED,   /* pull or push said so */
  HTTP_CANCELLED, /* the client was closed */
  HTTP_REFUSED,   /* the URL or an option is no good */
  HTTP_NO_MEMORY,
} http_outcome;

/* Fills at most `capacity` bytes; returns how many, 0 at the end, or one of the two below. */
typedef size_t http_pull_fn(void *data, char *into, size_t capacity);

/* Takes the bytes and returns true; or takes none and pauses, or aborts. */
typedef enum http_take { HTTP_TAKEN, HTTP_TAKE_LATER, HTTP_TAKE_ABORT } http_take;
typedef http_take http_push_fn(void *data, const char *bytes, size_t length);

#define HTTP_PULL_LATER ((size_t)-1) /* pause until http_transfer_resume */
#define HTTP_PULL_ABORT ((size_t)-2)

/* Everything in here is copied, except for the bytes of `body` and what `data` points to. */
typedef struct http_request {
  const char *method;
  const char *url;
  const http_headers *headers; /* sent as they are; a body gets no Content-Type by itself */

  const char *body; /* stays valid until on_done or the free; NULL: no body, or `pull` */
  size_t body_length;
  http_pull_fn *pull;
  int64_t pull_length; /* how many bytes pull will give; -1: unknown, sent chunked */

  http_push_fn *push; /* NULL: the body of the answer is collected in response.body */
  size_t max_bytes;   /* of the answer's body; 0: no limit. Applies to both forms */
  bool (*on_head)(http_transfer *self, void *data); /* once, before the body; false aborts */

  void (*on_done)(http_transfer *self, void *data);
  void *data; /* given to every callback */

  /* Seconds; 0: none. */
  double connect_timeout;
  double first_byte_timeout; /* from the last byte sent to the first one received */
  double stall_timeout;      /* slower than low_speed; a paused transfer does not stall */
  double total_timeout;
  int64_t low_speed; /* bytes a second; 0: any byte will do */

  const char *proxy;   /* NULL: as the environment says; "": none */
  const char *ca_file; /* NULL: the system's authorities */
  bool follow_redirects;
  bool bulk; /* larger buffers: for bodies of many megabytes */
} http_request;

typedef struct http_response {
  http_outcome outcome;
  int status;           /* 0 where none came */
  http_headers headers; /* names in lower case */
  bytes body;
  char message[512]; /* what failed, where; empty where nothing did */
} http_response;

/* NULL on a lack of memory. Everything else is told by on_done. */
http_transfer *http_transfer_start(http_client *client, const http_request *request);

/* Valid from on_head on (status and headers) and from on_done on (all of it). The owner may take
 * body out of it (set it to a zeroed struct). */
http_response *http_transfer_response(http_transfer *self);

/* "GET https://host/path", for messages: no query (it may carry a signature), no user or password.
 */
const char *http_transfer_where(const http_transfer *self);

/* Continues after a pause of pull or push; harmless where nothing pauses. */
void http_transfer_resume(http_transfer *self);

/* NULL is harmless. */
void http_transfer_free(http_transfer *self);

#endif
