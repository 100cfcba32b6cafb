/* hash.h: what proves that bytes arrived whole: their SHA-256, which is signed, and their CRC32C.
 * Both are taken piece by piece, while a piece is in the processor's cache. */
#ifndef NEBULA_S3_HASH_H
#define NEBULA_S3_HASH_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "async/loop.h"
#include "s3/sign.h"

typedef struct s3_digests {
  char sha256[SIGN_HEX_LENGTH + 1]; /* "" where it was not wanted */
  uint32_t crc32c;
  bool has_crc32c;
} s3_digests;

/* Which of them are wanted. */
typedef struct s3_digests_wanted {
  bool sha256, crc32c;
} s3_digests_wanted;

enum {
  S3_HASH_HERE_MOST = 128 * 1024, /* fewer bytes are hashed faster than handed over */
  S3_HASH_PIECE = 256 * 1024,
  S3_CRC32C_TEXT = 9, /* base64 of four bytes, and a NUL */
};

/* Piece by piece, on any thread; end frees, and is called also after a failure. */
typedef struct s3_hasher {
  EVP_MD_CTX *context;
  s3_digests_wanted wanted;
  uint32_t crc32c;
  bool failed;
} s3_hasher;

void s3_hasher_begin(s3_hasher *self, s3_digests_wanted wanted);
void s3_hasher_take(s3_hasher *self, const void *data, size_t length);
bool s3_hasher_end(s3_hasher *self, s3_digests *out);

/* The checksum as S3's headers hold it: base64, most significant byte first. */
void s3_crc32c_text(uint32_t crc32c, char out[S3_CRC32C_TEXT]);

/* Many bytes, on the thread pool. Cancelling waits for the piece that is being read at that moment
 * (a tenth of a millisecond), after which the bytes may go away. */
typedef struct s3_hash s3_hash;

/* Calls done(data, digests) once from the loop; digests is NULL where the work failed. NULL on a
 * lack of memory. The hash frees itself after that. */
s3_hash *s3_hash_start(loop *on, const void *from, size_t length, s3_digests_wanted wanted,
                       void (*done)(void *data, const s3_digests *digests), void *data);

/* done is not called any more. NULL is harmless. */
void s3_hash_cancel(s3_hash *self);

#endif
