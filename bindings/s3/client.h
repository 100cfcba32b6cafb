/* client.h: one bucket on one endpoint: where requests go, who signs them, what they share.
 *
 * A client is counted: every call in flight holds it, so that it outlives its Lua handle. */
#ifndef NEBULA_S3_CLIENT_H
#define NEBULA_S3_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "http/client.h"
#include "s3/credentials.h"
#include "s3/retry.h"
#include "s3/sign.h"

#define S3_SSE_HEADER "x-amz-server-side-encryption"

/* Strings may be NULL where a default is named; all are copied. */
typedef struct s3_config {
  const char *endpoint; /* scheme://host[:port][/path]; NULL: AWS's own for the region */
  const char *region;   /* NULL: us-east-1 */
  const char *bucket;
  const char *access_key_id, *secret_access_key, *session_token; /* NULL: the chain */
  const char *profile;
  const char *proxy, *ca_file;
  bool path_style;
  bool unsigned_payload; /* bodies are not hashed; their integrity is TLS's business then */
  bool crc32c;           /* objects go and come with their CRC32C, where the server knows it */
  bool trust_etag;       /* what is read is not compared with an ETag that looks like an MD5 */
  int attempts;          /* at most, of one request */
  double connect_timeout, first_byte_timeout, stall_timeout; /* seconds */
  int64_t low_speed; /* bytes a second: what is slower for stall_timeout has stalled */
  double deadline;   /* of one operation, retries included; 0: none */
} s3_config;

typedef struct s3_client {
  http_client *http;
  loop *on;
  s3_config config; /* its strings belong to the client */
  s3_credentials *credentials;
  retry_quota quota;
  sign_key key; /* of the identity of key_generation */
  unsigned key_generation;
  int64_t skew;            /* seconds that the server's clock is ahead of ours */
  unsigned region_changes; /* since the client was made */
  bool bucket_seen;        /* some answer has shown that the bucket exists */
  int references;
} s3_client;

/* NULL on a lack of memory. Starts with one reference. */
s3_client *s3_client_new(http_client *http, const s3_config *config);
s3_client *s3_client_hold(s3_client *self);
void s3_client_release(s3_client *self);

/* The bucket has turned out to be in another region, and `elsewhere`, as it always is at AWS: where
 * the endpoint's host names the old one, it names the new one then. False on a lack of memory. */
bool s3_client_set_region(s3_client *self, const char *region, bool elsewhere);

/* Why the configuration cannot work, or NULL; points into static text or *buffer. */
const char *s3_config_problem(const s3_config *config, char *buffer, size_t size);

/* Why the key cannot be one of S3's, or NULL. */
const char *s3_key_problem(const char *key, size_t length);

#endif
