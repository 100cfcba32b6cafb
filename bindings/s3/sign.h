/* sign.h: AWS Signature Version 4 for any request, as header or as query (presigned).
 *
 * Written after "Signature Version 4 signing process" of the AWS General Reference and
 * "Authenticating Requests" of the S3 API Reference; checked against the vectors that AWS
 * publishes. */
#ifndef NEBULA_S3_SIGN_H
#define NEBULA_S3_SIGN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "http/headers.h"

#define SIGN_UNSIGNED_PAYLOAD "UNSIGNED-PAYLOAD"

enum { SIGN_HEX_LENGTH = 64, SIGN_TIME_LENGTH = 16 };

/* The key of one secret, day, region and service, kept by who signs many requests with one secret.
 * Zeroed, it is none. */
typedef struct sign_key {
  char scope[256];
  unsigned char key[32];
} sign_key;

typedef struct sign_request {
  const char *method;
  const char *url;             /* query and path as they will be sent */
  const http_headers *headers; /* all of them are signed but those that proxies may change */
  const char *body;
  size_t body_length;
  const char *payload_hash; /* instead of the body's SHA-256: hex, or SIGN_UNSIGNED_PAYLOAD */
  const char *region, *service;
  const char *access_key_id, *secret_access_key;
  sign_key *key;             /* of secret_access_key alone; or NULL */
  const char *session_token; /* or NULL */
  int64_t time;              /* seconds since 1970 */
  bool in_query;             /* the signature goes into the URL */
  int64_t expires;           /* of the query form, seconds; 0: not stated */
  bool encode_once;          /* the path counts as sent, as S3 wants it; else it is encoded again */
  bool normalize_path;       /* "." and ".." are resolved in what is signed; not for S3 */
  bool sign_body;            /* adds x-amz-content-sha256 */
  bool omit_session_token;   /* the token is sent and not signed */
} sign_request;

/* Zeroed by the caller before, freed by sign_result_free after. */
typedef struct sign_result {
  bytes canonical_request;
  bytes string_to_sign;
  char signature[SIGN_HEX_LENGTH + 1];
  http_headers added; /* what to send besides the request's own headers */
  bytes url;          /* what to send it to */
} sign_result;

typedef enum sign_status { SIGN_OK, SIGN_BAD_URL, SIGN_BAD_TIME, SIGN_NO_MEMORY } sign_status;

sign_status sign_make(const sign_request *request, sign_result *result);
void sign_result_free(sign_result *result);

/* Lower-case hex and a NUL: out has room for 2 * length + 1. */
void sign_hex(const unsigned char *data, size_t length, char *out);

/* Lower-case hex of the SHA-256 of the bytes. On any thread. */
void sign_sha256_hex(const void *data, size_t length, char out[SIGN_HEX_LENGTH + 1]);

#endif
