/* copy_json.h: rows of COPY's binary format, each as a line with a JSON object.
 *
 * Binary costs the server less than text, and far less than its own row_to_json: a time or a UUID
 * is written as JSON here. NULLs are left out. Any thread, one at a time. */
#ifndef NEBULA_PG_COPY_JSON_H
#define NEBULA_PG_COPY_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <libpq-fe.h>
#include "json/json_buffer.h"

typedef struct pg_copy_json pg_copy_json;

typedef enum pg_copy_json_wrote {
  PG_COPY_JSON_OK,
  PG_COPY_JSON_NO_MEMORY,
  PG_COPY_JSON_NOT_UTF8, /* a text of a database without an encoding */
  PG_COPY_JSON_BROKEN,   /* it is no row of these columns */
} pg_copy_json_wrote;

/* A column whose type has no form here; -1 where each has one. */
int pg_copy_json_refuses(const PGresult *described);

/* For the columns of a described statement, none of which is refused. Where `as` is given, each
 * object stands in another one under that name. NULL on a lack of memory. Free it. */
pg_copy_json *pg_copy_json_new(const PGresult *described, const char *as);
void pg_copy_json_free(pg_copy_json *self);

/* Appends the lines of one message of the COPY. */
pg_copy_json_wrote pg_copy_json_write(pg_copy_json *self, const char *data, size_t length,
                                      json_buffer *out);

#endif
