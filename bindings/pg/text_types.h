/* text_types.h: types that a pool's owner reads itself, from the server's text. */
#ifndef NEBULA_PG_TEXT_TYPES_H
#define NEBULA_PG_TEXT_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <libpq-fe.h>

enum { PG_TEXT_TYPES_MOST = 64 };

typedef struct pg_text_type {
  Oid type, array; /* 0: its arrays are not known */
} pg_text_type;

typedef struct pg_text_types {
  size_t count;
  pg_text_type list[PG_TEXT_TYPES_MOST];
} pg_text_types;

/* Adds a type. False where there are too many. */
bool pg_text_types_add(pg_text_types *self, Oid type, Oid array);
void pg_text_types_remove(pg_text_types *self, Oid type);

/* The type that a column has, or its elements have; NULL where it is none of them. */
const pg_text_type *pg_text_types_find(const pg_text_types *self, Oid column);

#endif
