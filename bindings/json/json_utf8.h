/* json_utf8.h: strict UTF-8 (RFC 3629): no overlong form, no surrogate, nothing above U+10FFFF. */
#ifndef NEBULA_JSON_UTF8_H
#define NEBULA_JSON_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The length of the well-formed sequence of two to four bytes at `at`, or 0. */
static inline size_t json_utf8_sequence(const unsigned char *at, const unsigned char *end) {
  size_t room = (size_t)(end - at);
  unsigned first = at[0];
  if (first >= 0xC2 && first <= 0xDF) return room >= 2 && (at[1] & 0xC0) == 0x80 ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    unsigned least = first == 0xE0 ? 0xA0 : 0x80, most = first == 0xED ? 0x9F : 0xBF;
    return room >= 3 && at[1] >= least && at[1] <= most && (at[2] & 0xC0) == 0x80 ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    unsigned least = first == 0xF0 ? 0x90 : 0x80, most = first == 0xF4 ? 0x8F : 0xBF;
    return room >= 4 && at[1] >= least && at[1] <= most && (at[2] & 0xC0) == 0x80 &&
                   (at[3] & 0xC0) == 0x80
               ? 4
               : 0;
  }
  return 0;
}

/* Skips bytes that stand for themselves in a JSON string (0x20 to 0x7F but quote and backslash),
 * eight at a time. Returns the first other byte, or end. */
static inline const unsigned char *json_utf8_skip_plain(const unsigned char *at,
                                                        const unsigned char *end) {
  const uint64_t ones = UINT64_C(0x0101010101010101), tops = UINT64_C(0x8080808080808080);
  while (end - at >= 8) {
    uint64_t word;
    memcpy(&word, at, 8);
    uint64_t quote = word ^ (ones * '"'), slash = word ^ (ones * '\\');
    // A byte's top bit is set where it is below its limit; exact unless a top bit was set before.
    uint64_t other = (word - ones * 0x20) | (quote - ones) | (slash - ones) | word;
    if ((other & tops) != 0) break;
    at += 8;
  }
  while (at < end && *at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\')
    at++;
  return at;
}

#endif
