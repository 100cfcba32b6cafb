/* types.h: the object ids of PostgreSQL's own types, which never change. */
#ifndef NEBULA_PG_TYPES_H
#define NEBULA_PG_TYPES_H

#include <libpq-fe.h>

enum {
  PG_BOOL = 16,
  PG_BYTEA = 17,
  PG_NAME = 19,
  PG_INT8 = 20,
  PG_INT2 = 21,
  PG_INT4 = 23,
  PG_TEXT = 25,
  PG_OID = 26,
  PG_JSON = 114,
  PG_FLOAT4 = 700,
  PG_FLOAT8 = 701,
  PG_BPCHAR = 1042,
  PG_VARCHAR = 1043,
  PG_DATE = 1082,
  PG_TIMESTAMP = 1114,
  PG_TIMESTAMPTZ = 1184,
  PG_NUMERIC = 1700,
  PG_UUID = 2950,
  PG_JSONB = 3802,
};

/* The type of an array's elements, or 0 where the type is no array that is known here. */
Oid pg_type_element(Oid array);

/* "int4", or NULL where the type is not one of PostgreSQL's common ones. */
const char *pg_type_name(Oid type);

#endif
