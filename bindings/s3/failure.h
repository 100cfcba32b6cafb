/* failure.h: what went wrong with a request to S3, for whoever has to tell it. */
#ifndef NEBULA_S3_FAILURE_H
#define NEBULA_S3_FAILURE_H

#include <stdbool.h>

typedef enum s3_kind {
  S3_WELL,
  S3_ABSENT,   /* no such object (or upload): most callers make nil of it */
  S3_REFUSED,  /* S3 answered with an error, or could not be reached */
  S3_INVALID,  /* it answered that this cannot be asked of the object: a range outside of it */
  S3_CONFLICT, /* a condition did not hold */
  S3_TIMEOUT,
  S3_LIMIT,
  S3_IO,      /* a local file */
  S3_UNKNOWN, /* a conditional write whose answer was lost */
  S3_CONFIG,  /* credentials or addresses that cannot work */
  S3_CLOSED,
  S3_NO_MEMORY,
} s3_kind;

typedef struct s3_failure {
  s3_kind kind;
  int status;         /* of HTTP; 0 where no answer came */
  char code[64];      /* S3's, or our own where S3 said nothing */
  char message[768];  /* one line, with the remedy; never a secret */
  bool retryable;     /* the same request may succeed later */
  double retry_after; /* seconds the server asked for; 0: it did not */
} s3_failure;

void s3_failure_set(s3_failure *self, s3_kind kind, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The bytes of an object do not agree with `other`: "checksum", "ETag". */
void s3_failure_set_damage(s3_failure *self, const char *what, const char *key, const char *other);

/* The object that a conditional write is about is in another state. */
void s3_failure_set_unmet(s3_failure *self, const char *what, const char *key, const char *bucket);

#endif
