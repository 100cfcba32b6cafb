/* download.h: an object into a file: one request where it fits into a part, else ranges in
 * parallel, all of one version, into a temporary file beside the wanted one, which takes its place
 * when every byte is there. It is not synced: an object can be fetched again. */
#ifndef NEBULA_S3_DOWNLOAD_H
#define NEBULA_S3_DOWNLOAD_H

#include "s3/call.h"

typedef struct s3_download s3_download;

typedef struct s3_download_options {
  const char *key;
  size_t key_length;
  const char *path;
  const http_headers *headers; /* conditions; copied */
  const http_headers *query;   /* a version; copied */
  size_t part_size;
  int concurrency; /* ranges at once, each in 2.5 MiB of memory at most */
  double deadline; /* of each request, seconds; 0: the client's */
  void (*on_event)(void *data);
  void *data;
} s3_download_options;

/* NULL on a lack of memory. on_event never runs inside of the calls below. */
s3_download *s3_download_start(s3_client *client, const s3_download_options *options);

bool s3_download_has_ended(const s3_download *self);
const s3_failure *s3_download_failure(const s3_download *self); /* S3_ABSENT: no such object */
const http_headers *s3_download_headers(const s3_download *self);
uint64_t s3_download_written(const s3_download *self); /* bytes so far */

/* Unfinished, nothing is left of the file. NULL is harmless. */
void s3_download_free(s3_download *self);

#endif
