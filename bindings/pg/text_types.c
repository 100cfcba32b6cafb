/* text_types.c: a short list, looked through from its begin. */
#include "pg/text_types.h"

static size_t index_of(const pg_text_types *self, Oid type) {
  size_t i = 0;
  while (i < self->count && self->list[i].type != type)
    i++;
  return i;
}

bool pg_text_types_add(pg_text_types *self, Oid type, Oid array) {
  size_t i = index_of(self, type);
  if (i == PG_TEXT_TYPES_MOST) return false;
  if (i == self->count) self->count++;
  self->list[i] = (pg_text_type){type, array};
  return true;
}

void pg_text_types_remove(pg_text_types *self, Oid type) {
  size_t i = index_of(self, type);
  if (i < self->count) self->list[i] = self->list[--self->count];
}

const pg_text_type *pg_text_types_find(const pg_text_types *self, Oid column) {
  size_t i = index_of(self, column);
  if (i < self->count) return &self->list[i];
  for (i = 0; i < self->count; i++)
    if (self->list[i].array == column && column != 0) return &self->list[i];
  return NULL;
}
