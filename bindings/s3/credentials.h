/* credentials.h: whose keys sign the requests.
 *
 * A provider looks along the usual chain of the AWS SDKs, the first that has something wins: keys
 * given by the caller, AWS_* variables, a web identity's token (exchanged at STS), the profile
 * files (a profile named by the caller or by AWS_PROFILE may name a web identity, too), the
 * container's endpoint, the machine's metadata service (IMDSv2). What must be read or asked for is
 * read on the thread pool and asked for in the loop, once for all requests that wait. Keys that
 * expire are renewed five minutes before they do, while requests go on with the old ones. Secrets
 * are wiped when they are freed and never printed. */
#ifndef NEBULA_S3_CREDENTIALS_H
#define NEBULA_S3_CREDENTIALS_H

#include <stdbool.h>
#include "http/client.h"
#include "s3/identity.h"

typedef struct s3_credentials s3_credentials;

/* Strings are copied. All may be NULL. */
typedef struct s3_credentials_options {
  const char *access_key_id, *secret_access_key, *session_token; /* NULL: the chain is searched */
  const char *profile;
  const char *region;          /* of STS */
  const char *proxy, *ca_file; /* to STS */
} s3_credentials_options;

/* One request that waits for an identity; part of its owner's memory. */
typedef struct s3_credentials_wait {
  void (*ready)(void *data);
  void *data;
  struct s3_credentials_wait *next;
  bool queued;
} s3_credentials_wait;

/* NULL on a lack of memory. */
s3_credentials *s3_credentials_new(http_client *http, const s3_credentials_options *options);

/* The identity, where one is known; else NULL, and wait->ready is called once, from the loop: then
 * ask again. After a search that found nothing, s3_credentials_problem says so for a second; then
 * the next request searches again. */
const s3_identity *s3_credentials_get(s3_credentials *self, s3_credentials_wait *wait);

/* The identity where one is known; never searches. */
const s3_identity *s3_credentials_known(const s3_credentials *self);

/* A number that changes with the identity. */
unsigned s3_credentials_generation(const s3_credentials *self);

/* Why there is no identity, with the remedy; NULL while that is not known. */
const char *s3_credentials_problem(const s3_credentials *self);

/* A server has refused the identity of that generation as expired: it is forgotten, unless another
 * has come since, so that the next request searches again. False where the keys were given by the
 * caller and searching is no use. */
bool s3_credentials_expire(s3_credentials *self, unsigned generation);

/* Takes a waiting request out; harmless where it does not wait. */
void s3_credentials_leave(s3_credentials *self, s3_credentials_wait *wait);

/* No one may wait any more. NULL is harmless. */
void s3_credentials_free(s3_credentials *self);

#endif
