/* bytes.h: a growable run of bytes, always followed by a NUL, for plain C that builds text.
 *
 * A zeroed struct is an empty one. An append that finds no memory, or would pass SIZE_MAX, sets
 * `failed`, after which every append is a no-op: a builder checks once, at its end. */
#ifndef NEBULA_BASE_BYTES_H
#define NEBULA_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>

typedef struct bytes {
  char *data; /* NULL until the first append */
  size_t length;
  size_t capacity;
  bool failed;
} bytes;

/* Each returns false where `failed` is set afterwards. */
bool bytes_reserve(bytes *self, size_t more);
bool bytes_append(bytes *self, const void *data, size_t length);
bool bytes_append_text(bytes *self, const char *text);
bool bytes_append_char(bytes *self, char c);
bool bytes_format(bytes *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The text so far; "" where nothing was appended. */
const char *bytes_text(const bytes *self);

/* Forgets the content and keeps the memory. */
void bytes_clear(bytes *self);

/* Hands the memory to the caller, who frees it; NULL where the run failed or is empty. */
char *bytes_detach(bytes *self);

void bytes_free(bytes *self);

#endif
