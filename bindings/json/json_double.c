/* json_double.c: doubles to decimal and back.
 *
 * Printing is Schubfach: R. Giulietti, "The Schubfach way to render doubles" (2020); the layout
 * of the steps follows A. Bolz's "Drachennest". Reading is Clinger's fast path ("How to read
 * floating point numbers accurately", 1990), then Eisel and Lemire (D. Lemire, "Number parsing at a
 * gigabyte per second", 2021); the few cases that they leave open go to strtod in the C locale. */
#include "json/json_double.h"

#include <locale.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "json/json_powers.h"

enum {
  MANTISSA_BITS = 52,
  EXPONENT_MASK = 0x7FF,
  EXPONENT_BIAS = 1075, /* of the mantissa read as an integer */
};

__extension__ typedef unsigned __int128 wide;

static uint64_t double_bits(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* floor(log2(10^e)), for -1233 <= e <= 1233 */
static int log2_of_power10(int e) {
  return (e * 1741647) >> 19;
}

/* The upper 64 bits of power * c, with the lowest bit set where anything was cut off. */
static uint64_t round_to_odd(json_power power, uint64_t c) {
  wide low = (wide)power.low * c;
  wide high = (wide)power.high * c + (uint64_t)(low >> 64);
  return (uint64_t)(high >> 64) | ((uint64_t)high > 1);
}

static json_decimal decimal_trim(json_decimal decimal) {
  while (decimal.digits != 0 && decimal.digits % 10 == 0) {
    decimal.digits /= 10;
    decimal.exponent++;
  }
  return decimal;
}

static json_decimal schubfach(uint64_t c, int q, bool even, bool lower_closer) {
  // The rounding interval of c * 2^q, scaled by 4 so that its ends are whole numbers.
  uint64_t left = 4 * c - 2 + lower_closer, middle = 4 * c, right = 4 * c + 2;
  int k = (q * 1262611 - (lower_closer ? 524031 : 0)) >> 22;
  int shift = q + log2_of_power10(-k) + 1;
  json_power power = JSON_POWERS[-k - JSON_POWER_LEAST];
  uint64_t lower = round_to_odd(power, left << shift) + !even;
  uint64_t value = round_to_odd(power, middle << shift);
  uint64_t upper = round_to_odd(power, right << shift) - !even;
  uint64_t s = value / 4;
  if (s >= 10) { // one digit fewer, if just one of the two candidates lies inside
    uint64_t shorter = s / 10;
    bool down = lower <= 40 * shorter, up = 40 * shorter + 40 <= upper;
    if (down != up) return (json_decimal){shorter + up, k + 1};
  }
  bool down = lower <= 4 * s, up = 4 * s + 4 <= upper;
  if (down != up) return (json_decimal){s + up, k};
  uint64_t half = 4 * s + 2;
  return (json_decimal){s + (value > half || (value == half && s % 2 != 0)), k};
}

json_decimal json_double_shortest(double value) {
  uint64_t bits = double_bits(value);
  uint64_t mantissa = bits & ((UINT64_C(1) << MANTISSA_BITS) - 1);
  int exponent = (int)(bits >> MANTISSA_BITS) & EXPONENT_MASK;
  uint64_t c = mantissa;
  int q = 1 - EXPONENT_BIAS;
  if (exponent != 0) {
    c |= UINT64_C(1) << MANTISSA_BITS;
    q = exponent - EXPONENT_BIAS;
    if (q <= 0 && q >= -MANTISSA_BITS && (c & ((UINT64_C(1) << -q) - 1)) == 0)
      return decimal_trim((json_decimal){c >> -q, 0});
  } else if (mantissa == 0) {
    return (json_decimal){0, 0};
  }
  return decimal_trim(schubfach(c, q, c % 2 == 0, mantissa == 0 && exponent > 1));
}

/* Eisel and Lemire's step. False where 128 bits of the power do not decide, or the result is not a
 * normal number. */
static bool nearest_fast(uint64_t digits, int exponent, double *out) {
  if (exponent < JSON_POWER_LEAST || exponent > 308) return false;
  json_power power = JSON_POWERS[exponent - JSON_POWER_LEAST];
  if (exponent < 0 || exponent > JSON_POWER_EXACT) {
    power.high -= power.low == 0;
    power.low--;
  }
  int zeros = __builtin_clzll(digits);
  digits <<= zeros;
  int64_t exponent2 = ((217706 * (int64_t)exponent) >> 16) + 64 + 1023 - zeros;
  wide product = (wide)digits * power.high;
  uint64_t high = (uint64_t)(product >> 64), low = (uint64_t)product;
  if ((high & 0x1FF) == 0x1FF && low + digits < digits) {
    wide rest = (wide)digits * power.low;
    uint64_t merged = low + (uint64_t)(rest >> 64);
    high += merged < low;
    if ((high & 0x1FF) == 0x1FF && merged + 1 == 0 && (uint64_t)rest + digits < digits)
      return false;
    low = merged;
  }
  uint64_t top = high >> 63;
  uint64_t mantissa = high >> (top + 9);
  exponent2 -= (int64_t)(1 ^ top);
  if (low == 0 && (high & 0x1FF) == 0 && (mantissa & 3) == 1)
    return false; // exactly halfway, perhaps
  mantissa = (mantissa + (mantissa & 1)) >> 1;
  if (mantissa >> 53 != 0) {
    mantissa >>= 1;
    exponent2++;
  }
  if (exponent2 <= 0 || exponent2 >= EXPONENT_MASK) return false;
  uint64_t bits =
      ((uint64_t)exponent2 << MANTISSA_BITS) | (mantissa & ((UINT64_C(1) << MANTISSA_BITS) - 1));
  memcpy(out, &bits, sizeof *out);
  return true;
}

double json_double_nearest(uint64_t digits, int exponent) {
  static const double EXACT[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                 1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  if (digits == 0) return 0.0;
  if (digits <= UINT64_C(1) << 53 && exponent >= -22 && exponent <= 22) {
    double value = (double)digits; // exact, and so is the power: one rounding in all
    return exponent < 0 ? value / EXACT[-exponent] : value * EXACT[exponent];
  }
  double value;
  if (nearest_fast(digits, exponent, &value)) return value;
  char text[48];
  (void)snprintf(text, sizeof text, "%llue%d", (unsigned long long)digits, exponent);
  locale_t c_locale = newlocale(LC_ALL_MASK, "C", NULL); // a constant of the C library
  value = strtod_l(text, NULL, c_locale);
  freelocale(c_locale);
  return value;
}

static size_t digits_format(uint64_t value, char out[24]) {
  char reversed[24];
  size_t count = 0;
  do {
    reversed[count++] = (char)('0' + value % 10);
    value /= 10;
  } while (value != 0);
  for (size_t i = 0; i < count; i++)
    out[i] = reversed[count - 1 - i];
  return count;
}

size_t json_integer_format(int64_t value, char out[JSON_DOUBLE_MOST]) {
  size_t sign = value < 0;
  out[0] = '-';
  return sign + digits_format(sign ? 0 - (uint64_t)value : (uint64_t)value, out + sign);
}

static char *zeros_append(char *at, int count) {
  if (count > 0) memset(at, '0', (size_t)count);
  return at + (count > 0 ? count : 0);
}

static char *bytes_append(char *at, const char *from, size_t count) {
  memcpy(at, from, count);
  return at + count;
}

size_t json_double_format(double value, char out[JSON_DOUBLE_MOST]) {
  enum { WHOLE_MOST = 19, FRACTION_ZEROS = 5 };
  json_decimal decimal = json_double_shortest(value);
  char digits[24];
  size_t count = digits_format(decimal.digits, digits);
  int point = (int)count + decimal.exponent; // digits before the decimal point
  char *at = out;
  if (signbit(value)) *at++ = '-';
  if (decimal.exponent >= 0 && point <= WHOLE_MOST) {
    at = bytes_append(at, digits, count);
    at = zeros_append(at, decimal.exponent);
    at = bytes_append(at, ".0", 2);
  } else if (decimal.exponent < 0 && point > 0) {
    at = bytes_append(at, digits, (size_t)point);
    *at++ = '.';
    at = bytes_append(at, digits + point, count - (size_t)point);
  } else if (decimal.exponent < 0 && point > -FRACTION_ZEROS) {
    at = bytes_append(at, "0.", 2);
    at = zeros_append(at, -point);
    at = bytes_append(at, digits, count);
  } else {
    *at++ = digits[0];
    if (count > 1) {
      *at++ = '.';
      at = bytes_append(at, digits + 1, count - 1);
    }
    *at++ = 'e';
    char exponent[JSON_DOUBLE_MOST];
    at = bytes_append(at, exponent, json_integer_format(point - 1, exponent));
  }
  return (size_t)(at - out);
}
