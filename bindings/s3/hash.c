/* hash.c: see hash.h. */
#include "s3/hash.h"

#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include "s3/sign.h"

enum { PIECE = 256 * 1024 };

struct s3_hash {
  uv_work_t work;
  uv_mutex_t reading; /* held by the worker while it reads a piece */
  atomic_bool cancelled;
  const unsigned char *from;
  size_t length;
  void (*done)(void *data, const char *hex);
  void *data;
  bool well;
  char hex[SIGN_HEX_LENGTH + 1];
};

static void hash_run(uv_work_t *work) {
  s3_hash *self = work->data;
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  bool well = context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1;
  for (size_t at = 0; well && at < self->length; at += PIECE) {
    size_t piece = self->length - at < PIECE ? self->length - at : PIECE;
    uv_mutex_lock(&self->reading);
    well = !atomic_load(&self->cancelled) && EVP_DigestUpdate(context, self->from + at, piece) == 1;
    uv_mutex_unlock(&self->reading);
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  self->well = well && EVP_DigestFinal_ex(context, digest, &size) == 1;
  if (self->well) sign_hex(digest, size, self->hex);
  EVP_MD_CTX_free(context);
}

static void hash_done(uv_work_t *work, int status) {
  s3_hash *self = work->data;
  uv_mutex_destroy(&self->reading);
  if (!atomic_load(&self->cancelled))
    self->done(self->data, status == 0 && self->well ? self->hex : NULL);
  free(self);
}

s3_hash *s3_hash_start(loop *on, const void *from, size_t length,
                       void (*done)(void *data, const char *hex), void *data) {
  s3_hash *self = calloc(1, sizeof *self);
  if (self == NULL || uv_mutex_init(&self->reading) != 0) {
    free(self);
    return NULL;
  }
  self->work.data = self;
  self->from = from;
  self->length = length;
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
