/* copy_json.c: a message holds whole rows; the first one begins with the format's header. */
#include "pg/copy_json.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "json/json_writer.h"
#include "pg/binary.h"
#include "pg/types.h"

enum { HEADER = 11 + 4, UUID_BYTES = 16, NO_ROW = -1 };

typedef enum form {
  REFUSED,
  TEXT,
  INTEGER,
  DOUBLE,
  BOOLEAN,
  UUID,
  BYTEA,
  TIMESTAMP,
  TIMESTAMPTZ,
  JSON,
  JSONB
} form;

typedef struct column {
  form form;
  size_t key, key_length; /* `"name":` among the keys */
} column;

struct pg_copy_json {
  bool begun;
  bool wrapped;
  json_buffer keys; /* first what each line begins with */
  size_t head_length;
  int count;
  column columns[];
};

static form form_of(Oid type) {
  switch (type) {
  case PG_TEXT:
  case PG_NAME:
  case PG_BPCHAR:
  case PG_VARCHAR: return TEXT;
  case PG_INT2:
  case PG_INT4:
  case PG_INT8: return INTEGER;
  case PG_FLOAT8: return DOUBLE;
  case PG_BOOL: return BOOLEAN;
  case PG_UUID: return UUID;
  case PG_BYTEA: return BYTEA;
  case PG_TIMESTAMP: return TIMESTAMP;
  case PG_TIMESTAMPTZ: return TIMESTAMPTZ;
  case PG_JSON: return JSON;
  case PG_JSONB: return JSONB;
  default: return REFUSED;
  }
}

int pg_copy_json_refuses(const PGresult *described) {
  for (int i = 0; i < PQnfields(described); i++)
    if (form_of(PQftype(described, i)) == REFUSED) return i;
  return -1;
}

static bool add_key(json_buffer *keys, const char *name) {
  size_t bad;
  return json_write_string(keys, name, strlen(name), &bad) == JSON_WRITTEN &&
         json_buffer_byte(keys, ':');
}

pg_copy_json *pg_copy_json_new(const PGresult *described, const char *as) {
  int count = PQnfields(described);
  pg_copy_json *self = calloc(1, sizeof *self + (size_t)count * sizeof *self->columns);
  if (self == NULL) return NULL;
  self->count = count;
  self->wrapped = as != NULL;
  json_buffer *keys = &self->keys;
  bool well = !self->wrapped || (json_buffer_byte(keys, '{') && add_key(keys, as));
  well = well && json_buffer_byte(keys, '{');
  self->head_length = keys->length;
  for (int i = 0; well && i < count; i++) {
    column *c = &self->columns[i];
    c->form = form_of(PQftype(described, i));
    c->key = keys->length;
    well = add_key(keys, PQfname(described, i));
    c->key_length = keys->length - c->key;
  }
  if (well) return self;
  pg_copy_json_free(self);
  return NULL;
}

void pg_copy_json_free(pg_copy_json *self) {
  if (self == NULL) return;
  json_buffer_free(&self->keys);
  free(self);
}

/* ---- values: room for them is there, beside a string's ---- */

static void put(json_buffer *out, const char *text, size_t length) {
  memcpy(out->data + out->length, text, length);
  out->length += length;
}

static void put_hex(json_buffer *out, const char *data, size_t length) {
  static const char DIGITS[] = "0123456789abcdef";
  char *to = out->data + out->length;
  for (size_t i = 0; i < length; i++) {
    *to++ = DIGITS[(unsigned char)data[i] >> 4];
    *to++ = DIGITS[(unsigned char)data[i] & 15];
  }
  out->length += 2 * length;
}

static void put_uuid(json_buffer *out, const char *data) {
  static const size_t GROUPS[] = {4, 2, 2, 2, 6};
  for (size_t i = 0; i < 5; data += GROUPS[i++]) {
    put(out, i == 0 ? "\"" : "-", 1);
    put_hex(out, data, GROUPS[i]);
  }
  put(out, "\"", 1);
}

static void put_time(json_buffer *out, const char *data, bool zone) {
  put(out, "\"", 1);
  out->length += pg_binary_timestamp(pg_binary_integer(data, 8), zone, out->data + out->length);
  put(out, "\"", 1);
}

static void put_double(json_buffer *out, const char *data) {
  uint64_t bits = (uint64_t)pg_binary_integer(data, 8);
  double value;
  memcpy(&value, &bits, sizeof value);
  if (isfinite(value)) {
    (void)json_write_double(out, value);
    return;
  }
  const char *text = isnan(value) ? "\"NaN\"" : value > 0 ? "\"Infinity\"" : "\"-Infinity\"";
  put(out, text, strlen(text));
}

/* JSON as somebody wrote it may have line breaks, between its tokens alone. */
static void put_json(json_buffer *out, const char *data, size_t length) {
  char *to = out->data + out->length;
  for (size_t i = 0; i < length; i++)
    to[i] = (unsigned char)data[i] < 0x20 ? ' ' : data[i];
  out->length += length;
}

static bool fits(form kind, const char *data, size_t length) {
  switch (kind) {
  case INTEGER: return length == 2 || length == 4 || length == 8;
  case BOOLEAN: return length == 1;
  case UUID: return length == UUID_BYTES;
  case DOUBLE:
  case TIMESTAMP:
  case TIMESTAMPTZ: return length == 8;
  case JSONB: return length > 1 && data[0] == 1;
  default: return true;
  }
}

static pg_copy_json_wrote write_value(json_buffer *out, form kind, const char *data,
                                      size_t length) {
  size_t bad;
  if (!fits(kind, data, length)) return PG_COPY_JSON_BROKEN;
  if (kind == TEXT) {
    json_written written = json_write_string(out, data, length, &bad);
    return written == JSON_WRITTEN            ? PG_COPY_JSON_OK
           : written == JSON_WRITTEN_NOT_UTF8 ? PG_COPY_JSON_NOT_UTF8
                                              : PG_COPY_JSON_NO_MEMORY;
  }
  if (!json_buffer_reserve(out, 2 * length + 2 * PG_TIMESTAMP_MOST)) return PG_COPY_JSON_NO_MEMORY;
  switch (kind) {
  case INTEGER: (void)json_write_integer(out, pg_binary_integer(data, length)); break;
  case DOUBLE: put_double(out, data); break;
  case BOOLEAN: put(out, data[0] != 0 ? "true" : "false", data[0] != 0 ? 4 : 5); break;
  case UUID: put_uuid(out, data); break;
  case TIMESTAMP: put_time(out, data, false); break;
  case TIMESTAMPTZ: put_time(out, data, true); break;
  case JSON: put_json(out, data, length); break;
  case JSONB: put(out, data + 1, length - 1); break;
  default:
    put(out, "\"\\\\x", 4);
    put_hex(out, data, length);
    put(out, "\"", 1);
  }
  return PG_COPY_JSON_OK;
}

/* ---- rows ---- */

typedef struct cursor {
  const char *at, *end;
} cursor;

static bool take(cursor *from, size_t length, const char **data) {
  if ((size_t)(from->end - from->at) < length) return false;
  *data = from->at;
  from->at += length;
  return true;
}

static pg_copy_json_wrote write_row(pg_copy_json *self, cursor *from, json_buffer *out) {
  const char *data;
  if (!json_buffer_append(out, self->keys.data, self->head_length)) return PG_COPY_JSON_NO_MEMORY;
  size_t first = out->length;
  for (int i = 0; i < self->count; i++) {
    const column *c = &self->columns[i];
    if (!take(from, 4, &data)) return PG_COPY_JSON_BROKEN;
    int64_t length = pg_binary_integer(data, 4);
    if (length == -1) continue;
    if (length < 0 || !take(from, (size_t)length, &data)) return PG_COPY_JSON_BROKEN;
    if (!json_buffer_reserve(out, c->key_length + 1)) return PG_COPY_JSON_NO_MEMORY;
    if (out->length > first) put(out, ",", 1);
    put(out, self->keys.data + c->key, c->key_length);
    pg_copy_json_wrote wrote = write_value(out, c->form, data, (size_t)length);
    if (wrote != PG_COPY_JSON_OK) return wrote;
  }
  size_t close = self->wrapped ? 3 : 2;
  return json_buffer_append(out, "}}\n" + 3 - close, close) ? PG_COPY_JSON_OK
                                                            : PG_COPY_JSON_NO_MEMORY;
}

pg_copy_json_wrote pg_copy_json_write(pg_copy_json *self, const char *data, size_t length,
                                      json_buffer *out) {
  cursor from = {data, data + length};
  if (!self->begun) {
    const char *extension;
    if (!take(&from, HEADER, &data) || !take(&from, 4, &extension)) return PG_COPY_JSON_BROKEN;
    int64_t skipped = pg_binary_integer(extension, 4);
    if (skipped < 0 || !take(&from, (size_t)skipped, &data)) return PG_COPY_JSON_BROKEN;
    self->begun = true;
  }
  while (from.at < from.end) {
    if (!take(&from, 2, &data)) return PG_COPY_JSON_BROKEN;
    int64_t count = pg_binary_integer(data, 2);
    if (count == NO_ROW) return from.at == from.end ? PG_COPY_JSON_OK : PG_COPY_JSON_BROKEN;
    if (count != self->count) return PG_COPY_JSON_BROKEN;
    pg_copy_json_wrote wrote = write_row(self, &from, out);
    if (wrote != PG_COPY_JSON_OK) return wrote;
  }
  return PG_COPY_JSON_OK;
}
