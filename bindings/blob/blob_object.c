/* blob_object.c: the file format of an object, its reading, and what is common to both ways. */
#include "blob/blob_object.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "blob/blob_internal.h"
#include "blob/blob_path.h"
#include "crypto/crypto_crc32c.h"
#include "crypto/crypto_text.h"

enum { PAIRS_MOST = 1 << 20 };

static void put_number(unsigned char *at, uint64_t value, int count) {
  for (int i = 0; i < count; i++)
    at[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t get_number(const unsigned char *at, int count) {
  uint64_t value = 0;
  for (int i = count - 1; i >= 0; i--)
    value = value << 8 | at[i];
  return value;
}

static uint32_t footer_check(const unsigned char footer[BLOB_FOOTER], const char *pairs,
                             size_t pairs_length) {
  uint32_t crc = crypto_crc32c(0, pairs, pairs_length);
  crc = crypto_crc32c(crc, footer, 20);
  return crypto_crc32c(crc, footer + 24, BLOB_DIGEST);
}

void blob_footer_write(unsigned char footer[BLOB_FOOTER], const blob_info *info, const char *pairs,
                       size_t pairs_length) {
  memcpy(footer, BLOB_MAGIC, 8);
  put_number(footer + 8, info->size, 8);
  put_number(footer + 16, pairs_length, 4);
  memcpy(footer + 24, info->digest, BLOB_DIGEST);
  put_number(footer + 20, footer_check(footer, pairs, pairs_length), 4);
}

void blob_info_free(blob_info *self) {
  free(self->pairs);
  self->pairs = NULL;
}

void blob_pairs_append(bytes *out, const blob_info *info, bool tags) {
  const char *at = info->pairs, *end = info->pairs + info->pairs_length;
  while (at < end) {
    const char *value = at + strlen(at) + 1;
    if (value >= end) return;
    const char *next = value + strlen(value) + 1;
    if ((*at == '=') == tags) bytes_append(out, at, (size_t)(next - at));
    at = next;
  }
}

static int read_at(int fd, void *data, size_t length, uint64_t offset) {
  char *at = data;
  while (length > 0) {
    ssize_t got = pread(fd, at, length, (off_t)offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    if (got == 0) return BLOB_DAMAGED;
    at += got;
    offset += (uint64_t)got;
    length -= (size_t)got;
  }
  return 0;
}

int blob_info_read(int fd, blob_info *out) {
  struct stat file;
  unsigned char footer[BLOB_FOOTER];
  *out = (blob_info){0};
  if (fstat(fd, &file) != 0) return errno;
  out->modified = (int64_t)file.st_mtim.tv_sec * 1000000 + file.st_mtim.tv_nsec / 1000;
  uint64_t whole = (uint64_t)file.st_size;
  if (!S_ISREG(file.st_mode) || whole < BLOB_FOOTER) return BLOB_DAMAGED;
  int error = read_at(fd, footer, sizeof footer, whole - BLOB_FOOTER);
  if (error != 0) return error;
  out->size = get_number(footer + 8, 8);
  out->pairs_length = (size_t)get_number(footer + 16, 4);
  memcpy(out->digest, footer + 24, BLOB_DIGEST);
  if (memcmp(footer, BLOB_MAGIC, 8) != 0 || out->pairs_length > PAIRS_MOST || out->size > whole ||
      out->size + out->pairs_length + BLOB_FOOTER != whole)
    return BLOB_DAMAGED;
  out->pairs = malloc(out->pairs_length + 1);
  if (out->pairs == NULL) return ENOMEM;
  error = read_at(fd, out->pairs, out->pairs_length, out->size);
  if (error == 0 &&
      footer_check(footer, out->pairs, out->pairs_length) != get_number(footer + 20, 4))
    error = BLOB_DAMAGED;
  if (error == 0 && out->pairs_length > 0 && out->pairs[out->pairs_length - 1] != '\0')
    error = BLOB_DAMAGED;
  if (error != 0) blob_info_free(out);
  return error;
}

int blob_file_open(const char *path, int *fd) {
  *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (*fd >= 0) return 0;
  return errno == ENOENT || errno == ENOTDIR ? BLOB_ABSENT : errno;
}

int blob_object_open(const blob_store *store, const char *key, size_t length, int *fd) {
  bytes path = {0};
  bytes_append_text(&path, store->root);
  blob_path_append(&path, key, length);
  int error = path.failed ? ENOMEM : blob_file_open(path.data, fd);
  bytes_free(&path);
  return error;
}

static bool etag_is(const char *wanted, const blob_info *info) {
  char etag[2 * BLOB_DIGEST];
  if (strcmp(wanted, "*") == 0) return true;
  crypto_hex(info->digest, BLOB_DIGEST, etag);
  return strlen(wanted) == sizeof etag && memcmp(wanted, etag, sizeof etag) == 0;
}

bool blob_conditions_hold(const blob_conditions *self, const blob_info *info) {
  if (self->if_match != NULL && (info == NULL || !etag_is(self->if_match, info))) return false;
  if (self->modified != 0 && (info == NULL || info->modified != self->modified)) return false;
  return self->if_none_match == NULL || info == NULL || !etag_is(self->if_none_match, info);
}

int blob_head(const blob_store *store, const char *key, size_t length, blob_info *out) {
  int fd;
  int error = blob_object_open(store, key, length, &fd);
  if (error != 0) return error;
  error = blob_info_read(fd, out);
  (void)close(fd);
  return error;
}

/* ---- reading ---- */

int blob_reader_open(blob_reader *self, const blob_store *store, const char *key, size_t length,
                     const blob_conditions *conditions) {
  *self = (blob_reader){.fd = -1};
  int error = blob_object_open(store, key, length, &self->fd);
  if (error != 0) return error;
  error = blob_info_read(self->fd, &self->info);
  if (error == 0 && !blob_conditions_hold(conditions, &self->info)) {
    const char *other = conditions->if_none_match;
    error = other != NULL && etag_is(other, &self->info) ? BLOB_UNCHANGED : BLOB_CONFLICT;
  }
  self->end = self->info.size;
  if (error == 0) {
    self->digest = EVP_MD_CTX_new();
    if (self->digest == NULL) error = ENOMEM;
    if (error == 0 && EVP_DigestInit_ex(self->digest, EVP_sha256(), NULL) != 1) error = EIO;
  }
  if (error != 0) blob_reader_close(self);
  return error;
}

void blob_reader_limit(blob_reader *self, uint64_t first, uint64_t end) {
  EVP_MD_CTX_free(self->digest);
  self->digest = NULL;
  self->end = end < self->info.size ? end : self->info.size;
  self->at = first < self->end ? first : self->end;
}

static int reader_verify(blob_reader *self) {
  unsigned char digest[BLOB_DIGEST];
  if (self->digest == NULL) return 0;
  bool done = EVP_DigestFinal_ex(self->digest, digest, NULL) == 1;
  EVP_MD_CTX_free(self->digest);
  self->digest = NULL;
  if (!done) return EIO;
  return memcmp(digest, self->info.digest, BLOB_DIGEST) == 0 ? 0 : BLOB_DAMAGED;
}

int blob_reader_read(blob_reader *self, void *data, size_t length, size_t *got) {
  uint64_t left = self->end - self->at;
  *got = left < length ? (size_t)left : length;
  int error = read_at(self->fd, data, *got, self->at);
  if (error != 0) return error;
  self->at += *got;
  if (self->digest != NULL && EVP_DigestUpdate(self->digest, data, *got) != 1) return EIO;
  // Verified with the last bytes, before anyone can take them for the whole.
  return self->at == self->end ? reader_verify(self) : 0;
}

void blob_reader_close(blob_reader *self) {
  if (self->fd >= 0) (void)close(self->fd);
  self->fd = -1;
  EVP_MD_CTX_free(self->digest);
  self->digest = NULL;
  blob_info_free(&self->info);
}
