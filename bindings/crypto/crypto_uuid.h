/* crypto_uuid.h: UUIDs of RFC 9562, as text. The functions that draw random bytes return false
 * where the system gives none. Any thread; a clock belongs to one. */
#ifndef NEBULA_CRYPTO_UUID_H
#define NEBULA_CRYPTO_UUID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CRYPTO_UUID_TEXT = 36 };

/* The newest time that a v7 was given, so that the next one is later; and random bits drawn ahead,
 * each used once: drawing eight bytes at a time cost more than all the rest. Zero to begin. */
typedef struct crypto_uuid_clock {
  uint64_t last; /* milliseconds since 1970, then 12 bits of their fraction */
  size_t left;   /* of pool, from its beginning */
  unsigned char pool[1024];
} crypto_uuid_clock;

bool crypto_uuid_v4(char out[CRYPTO_UUID_TEXT]);

/* Ascending: 48 bits of milliseconds, 12 bits of their fraction (RFC 9562, section 6.2, method 3),
 * then random bits. Where the clock stands still or goes back, the fraction counts on. */
bool crypto_uuid_v7(crypto_uuid_clock *clock, char out[CRYPTO_UUID_TEXT]);

/* False where the namespace is no UUID or SHA-1 is not to be had. */
bool crypto_uuid_v5(const char *name_space, size_t space_length, const char *name, size_t length,
                    char out[CRYPTO_UUID_TEXT]);

#endif
