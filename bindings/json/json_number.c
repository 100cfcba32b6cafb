/* json_number.c: number tokens: their grammar (RFC 8259, section 6), their exact value. */
#include "json/json_number.h"

#include <locale.h>
#include <stdlib.h>
#include "json/json_double.h"

enum { SAFE_DIGITS = 15, SHORTEST_DIGITS = 17, INTEGER_DIGITS = 19 };

static const int64_t EXPONENT_CAP = INT64_C(1000000000000000000);

/* A token taken apart: 0.<significant digits> * 10^point, the digits found by walking from `first`
 * to `last` and leaving the point out. */
typedef struct parts {
  bool negative;
  const char *first, *last; /* first and last non-zero digit; first NULL for zero */
  int64_t point;
} parts;

static bool is_digit(const char *at, const char *end) {
  return at < end && *at >= '0' && *at <= '9';
}

static parts parts_of(const char *text, const char *end) {
  parts self = {0};
  const char *at = text;
  if (*at == '-') {
    self.negative = true;
    at++;
  }
  const char *dot = NULL;
  for (; at < end && *at != 'e' && *at != 'E'; at++) {
    if (*at == '.') {
      dot = at;
    } else if (*at != '0') {
      self.first = self.first == NULL ? at : self.first;
      self.last = at;
    }
  }
  const char *mantissa_end = at;
  int64_t exponent = 0;
  if (at < end) {
    at++;
    bool minus = *at == '-';
    at += *at == '-' || *at == '+';
    for (; at < end; at++)
      exponent = exponent >= EXPONENT_CAP / 10 ? EXPONENT_CAP : exponent * 10 + (*at - '0');
    exponent = minus ? -exponent : exponent;
  }
  if (self.first == NULL) return self;
  const char *units = dot == NULL ? mantissa_end : dot; // behind the digit of the ones
  int64_t before = units - self.first;                  // negative behind the point: skip the dot
  self.point = before + (before < 0) + exponent;
  return self;
}

/* How many significant digits; at most `most` + 1 are counted. */
static int parts_count(const parts *self, int most) {
  int count = 0;
  for (const char *at = self->first; at <= self->last && count <= most; at++)
    count += *at != '.';
  return count;
}

static uint64_t parts_digits(const parts *self) {
  uint64_t digits = 0;
  for (const char *at = self->first; at <= self->last; at++)
    if (*at != '.') digits = digits * 10 + (uint64_t)(*at - '0');
  return digits;
}

static void decide_decimal(json_number *self, const char *text) {
  parts value = parts_of(text, self->end);
  self->kind = JSON_NUMBER_DOUBLE;
  self->number = value.negative ? -0.0 : 0.0;
  if (value.first == NULL) return;
  self->kind = JSON_NUMBER_EXACT;
  int count = parts_count(&value, SHORTEST_DIGITS);
  if (count > SHORTEST_DIGITS || value.point > 310 || value.point < -330) return;
  uint64_t digits = parts_digits(&value);
  int exponent = (int)value.point - count;
  double nearest = json_double_nearest(digits, exponent);
  // Up to 15 digits survive any normal double; beyond that the shortest form has to agree.
  bool safe = count <= SAFE_DIGITS && value.point > -300 && value.point < 300;
  if (!safe) {
    if (nearest > 1.7976931348623157e308) return;
    json_decimal shortest = json_double_shortest(nearest);
    if (shortest.digits != digits || shortest.exponent != exponent) return;
  }
  self->kind = JSON_NUMBER_DOUBLE;
  self->number = value.negative ? -nearest : nearest;
}

static json_number bad(json_number self, const char *at, const char *expected) {
  self.kind = JSON_NUMBER_BAD;
  self.end = at;
  self.expected = expected;
  return self;
}

json_number json_number_read(const char *text, const char *end) {
  json_number self = {0};
  const char *at = text;
  bool negative = *at == '-';
  at += negative;
  if (!is_digit(at, end)) return bad(self, at, "a digit");
  const char *first = at;
  uint64_t value = 0;
  if (*at == '0') {
    at++;
    if (is_digit(at, end)) return bad(self, at, "no digit after a leading zero");
  }
  for (; is_digit(at, end); at++)
    value = value * 10 + (uint64_t)(*at - '0'); // may wrap; used below only where it did not
  size_t digits = (size_t)(at - first);
  bool whole = true;
  if (at < end && *at == '.') {
    whole = false;
    if (!is_digit(++at, end)) return bad(self, at, "a digit after the decimal point");
    while (is_digit(at, end))
      at++;
  }
  if (at < end && (*at == 'e' || *at == 'E')) {
    whole = false;
    at++;
    at += at < end && (*at == '+' || *at == '-');
    if (!is_digit(at, end)) return bad(self, at, "a digit in the exponent");
    while (is_digit(at, end))
      at++;
  }
  self.end = at;
  if (whole && digits <= INTEGER_DIGITS && value <= (uint64_t)INT64_MAX + negative &&
      !(negative && value == 0)) { // 19 digits fit into 64 unsigned bits; -0 keeps its sign
    self.kind = JSON_NUMBER_INTEGER;
    self.integer = negative ? (int64_t)(0 - value) : (int64_t)value;
    return self;
  }
  decide_decimal(&self, text);
  return self;
}

int json_number_compare(const char *a, size_t a_length, const char *b, size_t b_length) {
  parts left = parts_of(a, a + a_length), right = parts_of(b, b + b_length);
  if (left.first == NULL || right.first == NULL) { // a zero, whatever its sign
    int left_sign = left.first == NULL ? 0 : left.negative ? -1 : 1;
    int right_sign = right.first == NULL ? 0 : right.negative ? -1 : 1;
    return left_sign - right_sign;
  }
  if (left.negative != right.negative) return left.negative ? -1 : 1;
  int sign = left.negative ? -1 : 1;
  if (left.point != right.point) return left.point < right.point ? -sign : sign;
  const char *x = left.first, *y = right.first;
  for (;;) {
    x += x <= left.last && *x == '.';
    y += y <= right.last && *y == '.';
    if (x > left.last || y > right.last)
      return x > left.last && y > right.last ? 0 : x > left.last ? -sign : sign;
    if (*x != *y) return *x < *y ? -sign : sign;
    x++;
    y++;
  }
}

double json_number_to_double(const char *text) {
  locale_t c_locale = newlocale(LC_ALL_MASK, "C", NULL); // a constant of the C library
  double value = strtod_l(text, NULL, c_locale);
  freelocale(c_locale);
  return value;
}
