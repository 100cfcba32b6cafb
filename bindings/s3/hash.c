/* hash.c: see hash.h. */
#include "s3/hash.h"

#include <stdatomic.h>
#include <stdlib.h>
#include "crypto/crypto_crc32c.h"

struct s3_hash {
  uv_work_t work;
  uv_mutex_t reading; /* held by the worker while it reads a piece */
  atomic_bool cancelled;
  const unsigned char *from;
  size_t length;
  s3_digests_wanted wanted;
  void (*done)(void *data, const s3_digests *digests);
  void *data;
  bool well;
  s3_digests digests;
};

void s3_hasher_begin(s3_hasher *self, s3_digests_wanted wanted) {
  *self = (s3_hasher){.wanted = wanted};
  if (!wanted.sha256) return;
  self->context = EVP_MD_CTX_new();
  self->failed = self->context == NULL || EVP_DigestInit_ex(self->context, EVP_sha256(), NULL) != 1;
}

void s3_hasher_take(s3_hasher *self, const void *data, size_t length) {
  if (self->failed) return;
  if (self->wanted.crc32c) self->crc32c = crypto_crc32c(self->crc32c, data, length);
  if (self->wanted.sha256) self->failed = EVP_DigestUpdate(self->context, data, length) != 1;
}

bool s3_hasher_end(s3_hasher *self, s3_digests *out) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  *out = (s3_digests){.crc32c = self->crc32c, .has_crc32c = self->wanted.crc32c};
  if (self->wanted.sha256 && !self->failed) {
    self->failed = EVP_DigestFinal_ex(self->context, digest, &size) != 1;
    if (!self->failed) sign_hex(digest, size, out->sha256);
  }
  EVP_MD_CTX_free(self->context);
  self->context = NULL;
  return !self->failed;
}

void s3_crc32c_text(uint32_t crc32c, char out[S3_CRC32C_TEXT]) {
  unsigned char big_endian[] = {(unsigned char)(crc32c >> 24), (unsigned char)(crc32c >> 16),
                                (unsigned char)(crc32c >> 8), (unsigned char)crc32c};
  EVP_EncodeBlock((unsigned char *)out, big_endian, sizeof big_endian);
}

static void hash_run(uv_work_t *work) {
  s3_hash *self = work->data;
  s3_hasher hasher;
  bool go_on = true;
  s3_hasher_begin(&hasher, self->wanted);
  for (size_t at = 0; go_on && at < self->length; at += S3_HASH_PIECE) {
    size_t piece = self->length - at < S3_HASH_PIECE ? self->length - at : S3_HASH_PIECE;
    uv_mutex_lock(&self->reading);
    go_on = !atomic_load(&self->cancelled);
    if (go_on) s3_hasher_take(&hasher, self->from + at, piece);
    uv_mutex_unlock(&self->reading);
  }
  self->well = s3_hasher_end(&hasher, &self->digests) && go_on;
}

static void hash_done(uv_work_t *work, int status) {
  s3_hash *self = work->data;
  uv_mutex_destroy(&self->reading);
  if (!atomic_load(&self->cancelled))
    self->done(self->data, status == 0 && self->well ? &self->digests : NULL);
  free(self);
}

s3_hash *s3_hash_start(loop *on, const void *from, size_t length, s3_digests_wanted wanted,
                       void (*done)(void *data, const s3_digests *digests), void *data) {
  s3_hash *self = calloc(1, sizeof *self);
  if (self == NULL || uv_mutex_init(&self->reading) != 0) {
    free(self);
    return NULL;
  }
  self->work.data = self;
  self->from = from;
  self->length = length;
  self->wanted = wanted;
  self->done = done;
  self->data = data;
  if (uv_queue_work(&on->uv, &self->work, hash_run, hash_done) == 0) return self;
  uv_mutex_destroy(&self->reading);
  free(self);
  return NULL;
}

void s3_hash_cancel(s3_hash *self) {
  if (self == NULL) return;
  uv_mutex_lock(&self->reading);
  atomic_store(&self->cancelled, true);
  uv_mutex_unlock(&self->reading);
  uv_cancel((uv_req_t *)&self->work);
}
