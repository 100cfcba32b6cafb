/* upload_internal.h: what upload.c (parts, and where their bytes come from) and multipart.c (the
 * requests about the upload as a whole) share; no one else includes it. */
#ifndef NEBULA_S3_UPLOAD_INTERNAL_H
#define NEBULA_S3_UPLOAD_INTERNAL_H

#include "s3/part.h"
#include "s3/upload.h"

enum { ETAG_BYTES = 80 };

typedef enum upload_step {
  UPLOAD_FILLING,   /* nothing has been sent */
  UPLOAD_CREATING,  /* the server makes an upload id */
  UPLOAD_SENDING,   /* parts go out */
  UPLOAD_FINISHING, /* the one PUT, or what follows the last part */
  UPLOAD_ABORTING,
  UPLOAD_DONE,
  UPLOAD_ENDED,
} upload_step;

/* What complete says about a part. */
typedef struct sent_part {
  char etag[ETAG_BYTES];
  uint32_t crc32c;
} sent_part;

struct s3_upload {
  s3_client *client;
  s3_upload_options options; /* headers and conditions are the ones below */
  char *key;
  http_headers headers, conditions;
  upload_step step;
  bool ended; /* no more bytes come */
  bool failed;
  s3_failure failure;
  s3_call *call; /* of the upload as a whole */
  char *upload_id;
  s3_part *parts; /* options.concurrency of them */
  s3_part *filling;
  int next_number;
  sent_part *done; /* by part number - 1 */
  int done_capacity;
  bytes body; /* of complete */
  uint64_t taken, sent;

  const char *memory; /* the caller's bytes, or NULL */
  part_file *file;    /* or NULL */
  char *source;       /* another object, or NULL */
  char *source_etag;  /* may be NULL */
  uint64_t size;      /* of memory, file or source */
  uint64_t given;     /* how much of it is in parts */

  char etag[ETAG_BYTES];
  char version[128];
  loop_timer *later;
};

/* multipart.c */
void upload_begin_put(s3_upload *self, const s3_part *part); /* NULL: an empty object */
void upload_begin_create(s3_upload *self);
void upload_begin_finish(s3_upload *self);
void upload_fail(s3_upload *self, const s3_failure *failure);
void upload_fail_memory(s3_upload *self);
void upload_drop_call(s3_upload *self);

/* upload.c */
bool upload_has_crc32c(const s3_upload *self); /* of its parts; what the server copies has none */
void upload_created(s3_upload *self);          /* the id is there: sends what waits for it */
void upload_drop_parts(s3_upload *self);
void upload_tell(s3_upload *self);
void upload_tell_later(s3_upload *self); /* for what ends inside of a call from outside */

#endif
