/* upload.h: storing one object of any size: in one request while it fits into one part, as a
 * multipart upload beyond that, parts in parallel.
 *
 * Bytes come out of memory, out of a file, piece by piece through s3_upload_write, or out of
 * another object, on the server and always in parts. No more than `concurrency` parts are in memory
 * or on the way at once. A part that fails is retried alone; where that is no use, or the upload is
 * aborted, what the server holds of it is removed. */
#ifndef NEBULA_S3_UPLOAD_H
#define NEBULA_S3_UPLOAD_H

#include "s3/call.h"

typedef struct s3_upload s3_upload;

enum {
  S3_PART_LEAST = 5 * 1024 * 1024, /* S3's rule for all parts but the last */
  S3_PARTS_MOST = 10000,
  S3_CONCURRENCY_MOST = 64,
};

#define S3_OBJECT_MOST (5LL << 40)
#define S3_PART_MOST (5LL << 30)

typedef struct s3_upload_options {
  const char *key;
  size_t key_length;
  const http_headers *headers;    /* what is said about the object; copied */
  const http_headers *conditions; /* If-Match, If-None-Match; copied */
  size_t part_size;               /* at least; grows with the object. 0: the default */
  int concurrency;                /* parts at once */
  double deadline;                /* of each request, seconds; 0: the client's */
  void (*on_event)(void *data);   /* there may be room, or progress, or the end: look */
  void *data;
} s3_upload_options;

typedef enum s3_upload_state {
  S3_UPLOAD_OPEN,  /* takes bytes, or works on what it has */
  S3_UPLOAD_DONE,  /* the object is stored */
  S3_UPLOAD_ENDED, /* failed or aborted, and what it left on the server is removed */
} s3_upload_state;

/* NULL on a lack of memory. on_event never runs inside of the calls below. */
s3_upload *s3_upload_new(s3_client *client, const s3_upload_options *options);

/* One of these once, then the upload finishes by itself: all of the bytes, which must stay valid
 * until the end or the free; or `size` bytes of an open file, which is closed by the upload. */
void s3_upload_from_memory(s3_upload *self, const char *data, size_t length);
void s3_upload_from_file(s3_upload *self, int file, uint64_t size);

/* Or: `size` bytes, 1 at least, of another object: "/bucket/key", percent-encoded, while its ETag
 * is this; both are copied. */
void s3_upload_from_object(s3_upload *self, const char *source, const char *etag, uint64_t size);

/* Before any of these: what a HEAD of another object said about it is said about this one. False on
 * a lack of memory. */
bool s3_upload_describe(s3_upload *self, const http_headers *answer);

/* Or: takes as many of these bytes as there is room for and returns how many; fewer: on_event tells
 * when to go on. Then finish: no more bytes come. */
size_t s3_upload_write(s3_upload *self, const char *data, size_t length);
void s3_upload_finish(s3_upload *self);

/* Stops, removes what the server holds, ends. Harmless where it has ended. */
void s3_upload_abort(s3_upload *self);

s3_upload_state s3_upload_get_state(const s3_upload *self);
bool s3_upload_has_failed(const s3_upload *self); /* from the failure on, also before the end */
const s3_failure *s3_upload_failure(const s3_upload *self);
uint64_t s3_upload_taken(const s3_upload *self); /* bytes given so far */
uint64_t s3_upload_sent(const s3_upload *self);  /* bytes the server has confirmed */

/* After S3_UPLOAD_DONE; NULL where the server named none. */
const char *s3_upload_etag(const s3_upload *self);
const char *s3_upload_version(const s3_upload *self);

/* Drops everything at once, without a word to the server. NULL is harmless. */
void s3_upload_free(s3_upload *self);

#endif
