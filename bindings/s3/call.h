/* call.h: one request to S3, signed, sent, judged, and tried again where that may help.
 *
 * A call copies what it is given, except for the body's bytes. It signs every attempt anew, waits
 * between attempts as retry.h says, corrects for the server's clock, asks for fresh credentials
 * when theirs have expired, and tells its end once, from the loop. Freeing a call before that
 * cancels it. */
#ifndef NEBULA_S3_CALL_H
#define NEBULA_S3_CALL_H

#include "base/bytes.h"
#include "http/headers.h"
#include "http/transfer.h"
#include "s3/client.h"
#include "s3/failure.h"
#include "s3/hash.h"

typedef struct s3_call s3_call;

typedef struct s3_call_request {
  const char *what; /* "get", for messages */
  const char *method;
  const char *bucket; /* NULL: the client's */
  const char *key;    /* NULL: the bucket itself */
  size_t key_length;
  const http_headers *query; /* name and value, not encoded; a sub-resource has value "" */
  const http_headers *headers;
  const char *body; /* must stay valid until on_done or the free; NULL: none */
  size_t body_length;
  const s3_digests *digests; /* the body's, where they are known already; copied */
  bool checked;              /* the body is an object's: its CRC32C goes with it, if configured */
  size_t max_bytes;          /* of the answer's body; 0: no limit */
  http_push_fn *push;        /* takes the body of a good answer instead of s3_call_body */
  bool rewinds; /* push begins anew with each on_head: a body that broke may be asked for again */
  bool (*on_head)(s3_call *self, void *data); /* before a good answer's body; false aborts */
  bool once;       /* not to be repeated where the first may have had an effect */
  bool verify;     /* the answer is an object: compare it with its checksum or ETag */
  bool check_body; /* a 200 may carry an <Error> (copy, complete) */
  double deadline; /* seconds; 0: the client's */
  void (*on_done)(s3_call *self, void *data);
  void *data;
} s3_call_request;

/* NULL on a lack of memory. on_done never runs inside of this. */
s3_call *s3_call_start(s3_client *client, const s3_call_request *request);

/* From on_done on: of a body that was checked. */
bool s3_call_crc32c(const s3_call *self, uint32_t *out);

/* From on_done on. */
const s3_failure *s3_call_failure(const s3_call *self);
int s3_call_status(const s3_call *self);
bytes *s3_call_body(s3_call *self); /* the caller may take the memory out */

/* From on_head on; NULL where the header is absent. */
const char *s3_call_header(const s3_call *self, const char *name);
const http_headers *s3_call_headers(const s3_call *self);

/* Continues after push has said HTTP_TAKE_LATER. */
void s3_call_resume(s3_call *self);

/* NULL is harmless. */
void s3_call_free(s3_call *self);

/* Appends the URL of the key (NULL: of the bucket) without a query, percent-encoded; bucket NULL:
 * the client's. */
bool s3_url_append(bytes *out, const s3_client *client, const char *bucket, const char *key,
                   size_t key_length);

#endif
