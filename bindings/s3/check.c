/* check.c: see check.h. */
#include "s3/check.h"

#include <stdio.h>
#include <string.h>
#include "crypto/crypto_crc32c.h"
#include "crypto/crypto_text.h"
#include "s3/hash.h"

const char S3_CRC32C_HEADER[] = "x-amz-checksum-crc32c";

static bool find_md5(const http_headers *headers, unsigned char md5[16]) {
  const char *etag = http_headers_get(headers, "etag");
  const char *sse = http_headers_get(headers, "x-amz-server-side-encryption");
  const char *own_key = "x-amz-server-side-encryption-customer-algorithm";
  if (etag == NULL || (sse != NULL && strcmp(sse, "AES256") != 0) ||
      http_headers_get(headers, own_key) != NULL)
    return false;
  if (*etag == '"') etag++;
  size_t bad;
  return strlen(etag) == 33 && etag[32] == '"' && crypto_unhex(etag, 32, md5, &bad);
}

void s3_check_end(s3_check *self) {
  EVP_MD_CTX_free(self->md5);
  *self = (s3_check){0};
}

void s3_check_begin(s3_check *self, int status, const http_headers *headers, bool trust_etag) {
  s3_check_end(self);
  if (status != 200) return;
  /* That of an object in parts is a checksum of checksums: it ends in "-" and their number. */
  const char *sum = http_headers_get(headers, S3_CRC32C_HEADER);
  if (sum != NULL && strchr(sum, '-') == NULL && strlen(sum) < sizeof self->wanted_crc32c) {
    snprintf(self->wanted_crc32c, sizeof self->wanted_crc32c, "%s", sum);
    return;
  }
  if (trust_etag || !find_md5(headers, self->wanted_md5)) return;
  self->md5 = EVP_MD_CTX_new();
  if (self->md5 == NULL || EVP_DigestInit_ex(self->md5, EVP_md5(), NULL) == 1) return;
  EVP_MD_CTX_free(self->md5);
  self->md5 = NULL;
}

void s3_check_take(s3_check *self, const void *data, size_t length) {
  if (self->wanted_crc32c[0] != '\0') {
    self->crc32c = crypto_crc32c(self->crc32c, data, length);
  } else if (self->md5 != NULL) {
    EVP_DigestUpdate(self->md5, data, length);
  }
}

const char *s3_check_damage(s3_check *self) {
  unsigned char md5[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  char sum[S3_CRC32C_TEXT];
  if (self->wanted_crc32c[0] != '\0') {
    s3_crc32c_text(self->crc32c, sum);
    return strcmp(sum, self->wanted_crc32c) == 0 ? NULL : "checksum";
  }
  if (self->md5 == NULL) return NULL;
  bool same = EVP_DigestFinal_ex(self->md5, md5, &size) == 1 && size == 16 &&
              memcmp(md5, self->wanted_md5, 16) == 0;
  return same ? NULL : "ETag";
}

bool s3_condition_holds(const http_headers *conditions, const char *etag) {
  const char *wanted = http_headers_get(conditions, "if-match");
  if (http_headers_get(conditions, "if-none-match") != NULL && etag != NULL) return false;
  if (wanted == NULL) return true;
  if (etag == NULL || strcmp(wanted, "*") == 0) return etag != NULL;
  size_t length = strlen(etag);
  if (length >= 2 && etag[0] == '"' && etag[length - 1] == '"') etag++, length -= 2;
  return strlen(wanted) == length && memcmp(wanted, etag, length) == 0;
}
