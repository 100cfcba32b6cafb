/* reader.h: an object read piece by piece, in bounded memory.
 *
 * What the consumer has not taken yet is held, and where that is enough, the connection is paused.
 * A connection that breaks is replaced by one that goes on at the same byte of the same version. */
#ifndef NEBULA_S3_READER_H
#define NEBULA_S3_READER_H

#include "s3/call.h"

typedef struct s3_reader s3_reader;

typedef struct s3_reader_options {
  const char *key;
  size_t key_length;
  const http_headers *headers;  /* conditions; copied */
  const http_headers *query;    /* a version; copied */
  double deadline;              /* seconds, of the whole; 0: the client's */
  void (*on_event)(void *data); /* bytes, or the end: look */
  void *data;
} s3_reader_options;

/* NULL on a lack of memory. on_event never runs inside of the calls below. */
s3_reader *s3_reader_start(s3_client *client, const s3_reader_options *options);

/* True once the answer's head is there; from then on, its headers. */
bool s3_reader_is_open(const s3_reader *self);
const http_headers *s3_reader_headers(const s3_reader *self);

/* What is there to take; then take it. */
const char *s3_reader_data(const s3_reader *self, size_t *length);
void s3_reader_take(s3_reader *self, size_t length);

/* True where no more bytes will come; failure's kind is S3_WELL where that is the object's end. */
bool s3_reader_has_ended(const s3_reader *self);
const s3_failure *s3_reader_failure(const s3_reader *self);

/* NULL is harmless. */
void s3_reader_free(s3_reader *self);

#endif
