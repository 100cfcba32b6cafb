/* bytes.c: see bytes.h. Capacity doubles, so that a run of n appends copies O(n) bytes. */
#include "base/bytes.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool bytes_reserve(bytes *self, size_t more) {
  if (self->failed) return false;
  if (more < self->capacity - self->length) return true;
  if (more > SIZE_MAX / 2 - self->length - 1) {
    self->failed = true;
    return false;
  }
  size_t wanted = self->length + more + 1;
  size_t capacity = self->capacity < 64 ? 64 : self->capacity;
  while (capacity < wanted)
    capacity *= 2;
  char *data = realloc(self->data, capacity);
  if (data == NULL) {
    self->failed = true;
    return false;
  }
  self->data = data;
  self->capacity = capacity;
  return true;
}

bool bytes_append(bytes *self, const void *data, size_t length) {
  if (!bytes_reserve(self, length)) return false;
  if (length > 0) memcpy(self->data + self->length, data, length);
  self->length += length;
  self->data[self->length] = '\0';
  return true;
}

bool bytes_append_text(bytes *self, const char *text) {
  return bytes_append(self, text, strlen(text));
}

bool bytes_append_char(bytes *self, char c) {
  return bytes_append(self, &c, 1);
}

bool bytes_format(bytes *self, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  if (length < 0) self->failed = true;
  if (length < 0 || !bytes_reserve(self, (size_t)length)) return false;
  va_start(arguments, format);
  vsnprintf(self->data + self->length, (size_t)length + 1, format, arguments);
  va_end(arguments);
  self->length += (size_t)length;
  return true;
}

const char *bytes_text(const bytes *self) {
  return self->data == NULL ? "" : self->data;
}

void bytes_clear(bytes *self) {
  self->length = 0;
  self->failed = false;
  if (self->data != NULL) self->data[0] = '\0';
}

char *bytes_detach(bytes *self) {
  char *data = self->failed ? NULL : self->data;
  if (data == NULL) free(self->data);
  *self = (bytes){0};
  return data;
}

void bytes_free(bytes *self) {
  free(self->data);
  *self = (bytes){0};
}
