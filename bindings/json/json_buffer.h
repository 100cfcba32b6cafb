/* json_buffer.h: a growable run of bytes, for text whose length is known only once it is written.
 *
 * The owner initialises it with zeros and frees it with json_buffer_free. Appending returns false
 * on a lack of memory and leaves what is there alone. Any thread, one at a time. */
#ifndef NEBULA_JSON_BUFFER_H
#define NEBULA_JSON_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef struct json_buffer {
  char *data; /* not terminated */
  size_t length, capacity;
} json_buffer;

/* Makes room for `extra` more bytes behind the length. */
bool json_buffer_grow(json_buffer *self, size_t extra);

void json_buffer_free(json_buffer *self);

/* Empties it, and gives memory beyond `keep` bytes back. */
void json_buffer_reset(json_buffer *self, size_t keep);

static inline bool json_buffer_reserve(json_buffer *self, size_t extra) {
  return self->capacity - self->length >= extra || json_buffer_grow(self, extra);
}

static inline bool json_buffer_append(json_buffer *self, const char *data, size_t length) {
  if (!json_buffer_reserve(self, length)) return false;
  if (length > 0) memcpy(self->data + self->length, data, length);
  self->length += length;
  return true;
}

static inline bool json_buffer_byte(json_buffer *self, char byte) {
  if (!json_buffer_reserve(self, 1)) return false;
  self->data[self->length++] = byte;
  return true;
}

#endif
