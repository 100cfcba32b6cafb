/* crypto_text.h: bytes as hexadecimal or base64 text (RFC 4648) and back, strictly. Any thread. */
#ifndef NEBULA_CRYPTO_TEXT_H
#define NEBULA_CRYPTO_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Writes 2 * length lower-case digits, no terminator. */
void crypto_hex(const void *data, size_t length, char *out);

/* Reads `length` digits of either case into length / 2 bytes. False, and *bad set, at the first
 * character that is none; an odd length fails at its end. */
bool crypto_unhex(const char *text, size_t length, unsigned char *out, size_t *bad);

static inline size_t crypto_base64_length(size_t length) {
  return (length + 2) / 3 * 4;
}

/* Writes crypto_base64_length(length) characters of the standard alphabet, padded. */
void crypto_base64(const void *data, size_t length, char *out);

/* Reads the standard alphabet with its padding into at most length / 4 * 3 bytes; *written says how
 * many. False, and *bad set, at the first character that does not belong there. */
bool crypto_unbase64(const char *text, size_t length, unsigned char *out, size_t *written,
                     size_t *bad);

#endif
