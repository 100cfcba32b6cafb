/* json_double.h: doubles to their shortest decimal and back, correctly rounded, whatever the
 * locale.
 *
 * The C library's printf and strtod depend on the locale and are several times too slow here. */
#ifndef NEBULA_JSON_DOUBLE_H
#define NEBULA_JSON_DOUBLE_H

#include <stddef.h>
#include <stdint.h>

/* digits * 10^exponent */
typedef struct json_decimal {
  uint64_t digits;
  int exponent;
} json_decimal;

/* The decimal with the fewest digits (17 at most) that reads back as `value`, the nearest of these;
 * no trailing zero. The value is finite; its sign is ignored; zero gives {0, 0}. */
json_decimal json_double_shortest(double value);

/* The double nearest to digits * 10^exponent, ties to even; infinity where that is too large. */
double json_double_nearest(uint64_t digits, int exponent);

enum { JSON_DOUBLE_MOST = 32 };

/* Writes a finite double so that it reads back as the same float, not as an integer ("1.0",
 * "-0.0"), even after a PostgreSQL jsonb has rewritten it: numeric prints 1e15 as an integer, so
 * every whole number below 1e19 is written out with its ".0". Returns the length, no terminator. */
size_t json_double_format(double value, char out[JSON_DOUBLE_MOST]);

/* Writes an integer in decimal; returns the length, at most 20. */
size_t json_integer_format(int64_t value, char out[JSON_DOUBLE_MOST]);

#endif
