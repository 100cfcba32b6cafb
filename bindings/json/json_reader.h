/* json_reader.h: JSON text (RFC 8259) as a sequence of events, strictly, without allocating.
 *
 * The caller keeps the text, asks for one event after the other, and builds what it likes; the
 * reader checks the grammar, the encoding and the nesting. After JSON_ERROR or JSON_END it is not
 * asked again. Any thread, one at a time. */
#ifndef NEBULA_JSON_READER_H
#define NEBULA_JSON_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum json_event {
  JSON_ERROR,
  JSON_END, /* the text held one value and is over */
  JSON_NULL,
  JSON_FALSE,
  JSON_TRUE,
  JSON_INTEGER, /* integer */
  JSON_DOUBLE,  /* number */
  JSON_EXACT,   /* text, length: the token */
  JSON_STRING,  /* text, length: between the quotes; where `escaped`, use json_reader_unescape */
  JSON_KEY,     /* the same; the member's value follows */
  JSON_ARRAY,
  JSON_ARRAY_END,
  JSON_OBJECT,
  JSON_OBJECT_END,
} json_event;

typedef enum json_failure { JSON_FAILURE_SYNTAX, JSON_FAILURE_DEPTH } json_failure;

enum {
  JSON_DEPTH_MOST = 4096,   /* the bits of `nesting`, and what recursion over values stands */
  JSON_DEPTH_DEFAULT = 512, /* far above real documents, far below any stack's end */
};

typedef struct json_reader {
  const char *start, *end, *at;
  unsigned depth, max_depth;
  int state;

  int64_t integer;
  double number;
  const char *text;
  size_t length;
  bool escaped;

  json_failure failure;
  const char *failed_at; /* in the text, or its end */
  const char *expected;  /* "',' or ']'", a phrase for a person */

  uint64_t nesting[JSON_DEPTH_MOST / 64]; /* a bit a level: set for an object */
} json_reader;

/* max_depth: 1 to JSON_DEPTH_MOST nested arrays and objects. */
void json_reader_init(json_reader *self, const char *text, size_t length, unsigned max_depth);

json_event json_reader_next(json_reader *self);

/* Writes the last string or key with its escapes resolved; `out` has room for `length` bytes.
 * Returns how many were written. */
size_t json_reader_unescape(const json_reader *self, char *out);

/* Where it failed: line and column from 1, the column in characters. */
void json_reader_place(const json_reader *self, size_t *line, size_t *column);

/* One line about the failure, for a person: "line 3, column 7: expected ..., found ...". Always
 * terminated. */
void json_reader_describe(const json_reader *self, char *out, size_t size);

#endif
