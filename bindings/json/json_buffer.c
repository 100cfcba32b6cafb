/* json_buffer.c: the growable run of bytes; it doubles, so that n appended bytes cost O(n). */
#include "json/json_buffer.h"

#include <stdint.h>
#include <stdlib.h>

enum { FIRST_CAPACITY = 512 };

bool json_buffer_grow(json_buffer *self, size_t extra) {
  if (extra > SIZE_MAX / 2 - self->length) return false;
  size_t wanted = self->length + extra;
  size_t capacity = self->capacity < FIRST_CAPACITY ? FIRST_CAPACITY : self->capacity * 2;
  if (capacity < wanted) capacity = wanted;
  char *data = realloc(self->data, capacity);
  if (data == NULL) return false;
  self->data = data;
  self->capacity = capacity;
  return true;
}

void json_buffer_free(json_buffer *self) {
  free(self->data);
  *self = (json_buffer){0};
}

void json_buffer_reset(json_buffer *self, size_t keep) {
  self->length = 0;
  if (self->capacity > keep) json_buffer_free(self);
}
