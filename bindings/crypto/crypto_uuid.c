/* crypto_uuid.c: UUIDs: layout, and where their bits come from. */
#include "crypto/crypto_uuid.h"

#include <string.h>
#include <time.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include "crypto/crypto_text.h"

/* Sets version and variant and writes the 8-4-4-4-12 digits. */
static void uuid_format(unsigned char bytes[16], int version, char out[CRYPTO_UUID_TEXT]) {
  static const unsigned char GROUPS[] = {4, 2, 2, 2, 6};
  bytes[6] = (unsigned char)((bytes[6] & 0x0F) | version << 4);
  bytes[8] = (unsigned char)((bytes[8] & 0x3F) | 0x80);
  for (size_t i = 0; i < sizeof GROUPS; i++) {
    if (i > 0) *out++ = '-';
    crypto_hex(bytes, GROUPS[i], out);
    bytes += GROUPS[i];
    out += 2 * GROUPS[i];
  }
}

static bool uuid_parse(const char *text, size_t length, unsigned char bytes[16]) {
  char digits[32];
  size_t count = 0, bad;
  if (length != CRYPTO_UUID_TEXT) return false;
  for (size_t i = 0; i < length; i++) {
    bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash != (text[i] == '-')) return false;
    if (!dash) digits[count++] = text[i];
  }
  return crypto_unhex(digits, count, bytes, &bad);
}

bool crypto_uuid_v4(char out[CRYPTO_UUID_TEXT]) {
  unsigned char bytes[16];
  if (RAND_bytes(bytes, sizeof bytes) != 1) return false;
  uuid_format(bytes, 4, out);
  return true;
}

bool crypto_uuid_v7(crypto_uuid_clock *clock, char out[CRYPTO_UUID_TEXT]) {
  unsigned char bytes[16];
  if (clock->left < 8) {
    if (RAND_bytes(clock->pool, sizeof clock->pool) != 1) return false;
    clock->left = sizeof clock->pool;
  }
  clock->left -= 8;
  memcpy(bytes + 8, clock->pool + clock->left, 8);
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  uint64_t milliseconds = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
  uint64_t fraction = (uint64_t)now.tv_nsec % 1000000 * 4096 / 1000000;
  uint64_t time = milliseconds << 12 | fraction;
  if (time <= clock->last) time = clock->last + 1;
  clock->last = time;
  for (int i = 0; i < 6; i++)
    bytes[i] = (unsigned char)(time >> (52 - 8 * i));
  bytes[6] = (unsigned char)(time >> 8 & 0x0F);
  bytes[7] = (unsigned char)time;
  uuid_format(bytes, 7, out);
  return true;
}

bool crypto_uuid_v5(const char *name_space, size_t space_length, const char *name, size_t length,
                    char out[CRYPTO_UUID_TEXT]) {
  unsigned char space[16], digest[EVP_MAX_MD_SIZE];
  if (!uuid_parse(name_space, space_length, space)) return false;
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  bool done = context != NULL && EVP_DigestInit_ex(context, EVP_sha1(), NULL) == 1 &&
              EVP_DigestUpdate(context, space, sizeof space) == 1 &&
              EVP_DigestUpdate(context, name, length) == 1 &&
              EVP_DigestFinal_ex(context, digest, NULL) == 1;
  EVP_MD_CTX_free(context);
  if (done) uuid_format(digest, 5, out);
  return done;
}
