/* headers.h: a list of header fields, in order, duplicates kept; for requests and answers alike.
 * A zeroed struct is an empty list. */
#ifndef NEBULA_HTTP_HEADERS_H
#define NEBULA_HTTP_HEADERS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct http_header {
  char *name; /* one block with the value; freed with the list */
  char *value;
} http_header;

typedef struct http_headers {
  http_header *items;
  size_t count;
  size_t capacity;
  size_t bytes; /* of all names and values: what a limit counts */
} http_headers;

/* Copies both. Returns false on a lack of memory. */
bool http_headers_add(http_headers *self, const char *name, const char *value);
bool http_headers_add_n(http_headers *self, const char *name, size_t name_length, const char *value,
                        size_t value_length);

/* The first value under that name, whatever its case, or NULL. */
const char *http_headers_get(const http_headers *self, const char *name);

/* Appends copies of all of `other`. Returns false on a lack of memory. */
bool http_headers_add_all(http_headers *self, const http_headers *other);

/* True where both can stand in a header line: a name is a token, a value has no CR, LF or NUL. */
bool http_header_is_valid(const char *name, size_t name_length, const char *value,
                          size_t value_length);

/* Empties the list and keeps its memory. */
void http_headers_clear(http_headers *self);
void http_headers_free(http_headers *self);

#endif
