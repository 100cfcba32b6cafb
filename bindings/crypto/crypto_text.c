/* crypto_text.c: hexadecimal and base64. */
#include "crypto/crypto_text.h"

#include <stdint.h>

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void crypto_hex(const void *data, size_t length, char *out) {
  static const char DIGITS[] = "0123456789abcdef";
  const unsigned char *at = data;
  for (size_t i = 0; i < length; i++) {
    out[2 * i] = DIGITS[at[i] >> 4];
    out[2 * i + 1] = DIGITS[at[i] & 15];
  }
}

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool crypto_unhex(const char *text, size_t length, unsigned char *out, size_t *bad) {
  for (size_t i = 0; i < length; i++) {
    int value = hex_value(text[i]);
    if (value < 0 || (i == length - 1 && length % 2 != 0)) {
      *bad = value < 0 ? i : length;
      return false;
    }
    out[i / 2] = (unsigned char)(i % 2 == 0 ? value << 4 : out[i / 2] | value);
  }
  return true;
}

void crypto_base64(const void *data, size_t length, char *out) {
  const unsigned char *at = data;
  for (; length >= 3; at += 3, length -= 3) {
    uint32_t group = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 8 | at[2];
    *out++ = ALPHABET[group >> 18];
    *out++ = ALPHABET[group >> 12 & 63];
    *out++ = ALPHABET[group >> 6 & 63];
    *out++ = ALPHABET[group & 63];
  }
  if (length == 0) return;
  uint32_t group = (uint32_t)at[0] << 16 | (length == 2 ? (uint32_t)at[1] << 8 : 0);
  *out++ = ALPHABET[group >> 18];
  *out++ = ALPHABET[group >> 12 & 63];
  *out++ = length == 2 ? ALPHABET[group >> 6 & 63] : '=';
  *out = '=';
}

static int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  return c == '/' ? 63 : -1;
}

bool crypto_unbase64(const char *text, size_t length, unsigned char *out, size_t *written,
                     size_t *bad) {
  *written = 0;
  size_t padding = 0;
  if (length >= 4 && length % 4 == 0)
    padding = text[length - 1] != '=' ? 0 : text[length - 2] != '=' ? 1 : 2;
  uint32_t group = 0;
  for (size_t i = 0; i < length - padding; i++) {
    int value = base64_value(text[i]);
    if (value < 0) {
      *bad = i;
      return false;
    }
    group = group << 6 | (uint32_t)value;
    if (i % 4 == 3) {
      out[(*written)++] = (unsigned char)(group >> 16);
      out[(*written)++] = (unsigned char)(group >> 8);
      out[(*written)++] = (unsigned char)group;
      group = 0;
    }
  }
  *bad = length;
  if (length % 4 != 0) return false;
  *bad = length - padding - 1; // bits that no byte holds have to be zero: one text for one value
  if (padding == 1) {
    if ((group & 3) != 0) return false;
    out[(*written)++] = (unsigned char)(group >> 10);
    out[(*written)++] = (unsigned char)(group >> 2);
  } else if (padding == 2) {
    if ((group & 15) != 0) return false;
    out[(*written)++] = (unsigned char)(group >> 4);
  }
  return true;
}
