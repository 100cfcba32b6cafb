/* headers.c: see headers.h. Lists are short, so that a lookup is a scan. */
#include "http/headers.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool http_headers_add_n(http_headers *self, const char *name, size_t name_length, const char *value,
                        size_t value_length) {
  if (self->count == self->capacity) {
    size_t capacity = self->capacity == 0 ? 8 : self->capacity * 2;
    http_header *items = realloc(self->items, capacity * sizeof *items);
    if (items == NULL) return false;
    self->items = items;
    self->capacity = capacity;
  }
  char *block = malloc(name_length + value_length + 2);
  if (block == NULL) return false;
  memcpy(block, name, name_length);
  block[name_length] = '\0';
  char *copy = block + name_length + 1;
  if (value_length > 0) memcpy(copy, value, value_length);
  copy[value_length] = '\0';
  self->items[self->count++] = (http_header){block, copy};
  self->bytes += name_length + value_length;
  return true;
}

bool http_headers_add(http_headers *self, const char *name, const char *value) {
  return http_headers_add_n(self, name, strlen(name), value, strlen(value));
}

bool http_headers_add_all(http_headers *self, const http_headers *other) {
  for (size_t i = 0; i < other->count; i++) {
    if (!http_headers_add(self, other->items[i].name, other->items[i].value)) return false;
  }
  return true;
}

const char *http_headers_get(const http_headers *self, const char *name) {
  for (size_t i = 0; i < self->count; i++) {
    if (strcasecmp(self->items[i].name, name) == 0) return self->items[i].value;
  }
  return NULL;
}

bool http_header_is_valid(const char *name, size_t name_length, const char *value,
                          size_t value_length) {
  static const char TOKEN[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
                              "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  if (name_length == 0) return false;
  for (size_t i = 0; i < name_length; i++) {
    if (name[i] == '\0' || strchr(TOKEN, name[i]) == NULL) return false;
  }
  for (size_t i = 0; i < value_length; i++) {
    if (value[i] == '\r' || value[i] == '\n' || value[i] == '\0') return false;
  }
  return true;
}

void http_headers_clear(http_headers *self) {
  for (size_t i = 0; i < self->count; i++)
    free(self->items[i].name);
  self->count = 0;
  self->bytes = 0;
}

void http_headers_free(http_headers *self) {
  http_headers_clear(self);
  free(self->items);
  *self = (http_headers){0};
}
