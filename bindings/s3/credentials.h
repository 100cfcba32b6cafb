/* credentials.h: whose keys sign the requests.
 *
 * A provider looks along the usual chain of the AWS SDKs, the first that has something wins: keys
 * given by the caller, AWS_* variables, the profile files. What must be read is read once, on the
 * thread pool, at the first request. Secrets are wiped when they are freed and never printed. */
#ifndef NEBULA_S3_CREDENTIALS_H
#define NEBULA_S3_CREDENTIALS_H

#include <stdbool.h>
#include "async/loop.h"

typedef struct s3_identity {
  char *access_key_id;
  char *secret_access_key;
  char *session_token; /* NULL where there is none */
} s3_identity;

typedef struct s3_credentials s3_credentials;

/* One request that waits for an identity; part of its owner's memory. */
typedef struct s3_credentials_wait {
  void (*ready)(void *data);
  void *data;
  struct s3_credentials_wait *next;
  bool queued;
} s3_credentials_wait;

/* All NULL: the chain is searched. Copies what it is given. NULL on a lack of memory. */
s3_credentials *s3_credentials_new(loop *on, const char *access_key_id,
                                   const char *secret_access_key, const char *session_token,
                                   const char *profile);

/* The identity, where one is known; else NULL, and wait->ready is called once, from the loop: then
 * ask again. After a search that found nothing, s3_credentials_problem says so. */
const s3_identity *s3_credentials_get(s3_credentials *self, s3_credentials_wait *wait);

/* The identity where one is known; never searches. */
const s3_identity *s3_credentials_known(const s3_credentials *self);

/* Why there is no identity, with the remedy; NULL while that is not known. */
const char *s3_credentials_problem(const s3_credentials *self);

/* Forgets what was found, so that the next request searches again. False where the keys were given
 * by the caller and searching is no use. */
bool s3_credentials_expire(s3_credentials *self);

/* Takes a waiting request out; harmless where it does not wait. */
void s3_credentials_leave(s3_credentials *self, s3_credentials_wait *wait);

/* No one may wait any more. */
void s3_credentials_free(s3_credentials *self);

#endif
