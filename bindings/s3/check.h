/* check.h: whether the bytes of an object are the ones that were stored, by what the server says
 * about it: its CRC32C, where one is known; else its ETag, which is the MD5 of an object that was
 * stored in one request, unless a key service encrypts it. */
#ifndef NEBULA_S3_CHECK_H
#define NEBULA_S3_CHECK_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "http/headers.h"

/* Zeroed: nothing is checked. */
typedef struct s3_check {
  EVP_MD_CTX *md5;
  unsigned char wanted_md5[16];
  char wanted_crc32c[16];
  uint32_t crc32c; /* of what came so far */
} s3_check;

/* Begins anew with the answer's headers. Of an answer that is not the whole object, status 200,
 * nothing can be checked, and nothing of one that says nothing. */
void s3_check_begin(s3_check *self, int status, const http_headers *headers, bool trust_etag);
void s3_check_take(s3_check *self, const void *data, size_t length);

/* After all bytes: NULL, or the name of what they do not agree with. */
const char *s3_check_damage(s3_check *self);

void s3_check_end(s3_check *self);

/* Whether an object with this ETag (NULL: no object) is in the state that the If-Match or
 * If-None-Match of a write names, as bucket:put sends them: "*", or an ETag without quotes. */
bool s3_condition_holds(const http_headers *conditions, const char *etag);

extern const char S3_CRC32C_HEADER[];

#endif
