/* json_number.h: what a JSON number token means: an integer, a double, or neither without loss.
 *
 * A token is an INTEGER where it is written as one and fits into 64 bits; a DOUBLE where the
 * shortest form of the nearest double has the same value (1.10 is 1.1, 1e400 and 0.1 with thirty
 * digits are not); else it is EXACT and only its own text will do. */
#ifndef NEBULA_JSON_NUMBER_H
#define NEBULA_JSON_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum json_number_kind {
  JSON_NUMBER_BAD,
  JSON_NUMBER_INTEGER,
  JSON_NUMBER_DOUBLE,
  JSON_NUMBER_EXACT,
} json_number_kind;

typedef struct json_number {
  json_number_kind kind;
  int64_t integer;
  double number;
  const char *end;      /* behind the token; of a bad one, the place that is wrong */
  const char *expected; /* of a bad one: what should stand there */
} json_number;

/* Reads the longest number at `text`, which holds at least one byte. */
json_number json_number_read(const char *text, const char *end);

/* Compares two well-formed tokens by value: negative, 0 or positive. Exponents beyond 18 digits
 * count as equal to one another. */
int json_number_compare(const char *a, size_t a_length, const char *b, size_t b_length);

/* The nearest double of a well-formed token, infinite where it is too large. The text must be
 * terminated. */
double json_number_to_double(const char *text);

#endif
