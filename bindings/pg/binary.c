/* binary.c: PostgreSQL's binary formats (src/backend/utils/adt: the functions named *send). */
#include "pg/binary.h"
#include <string.h>
#include "pg/types.h"

static const int64_t DAY = INT64_C(86400000000); /* microseconds */

typedef enum worth { UNKNOWN, KNOWN, PAYS } worth;

static worth worth_of(Oid type) {
  switch (type) {
  case PG_INT8:
  case PG_FLOAT8:
  case PG_BYTEA:
  case PG_TIMESTAMP:
  case PG_TIMESTAMPTZ: return PAYS;
  case PG_BOOL:
  case PG_INT2:
  case PG_INT4:
  case PG_OID:
  case PG_TEXT:
  case PG_NAME:
  case PG_BPCHAR:
  case PG_VARCHAR:
  case PG_JSON:
  case PG_JSONB:
  case PG_UUID: return KNOWN;
  default: return UNKNOWN;
  }
}

bool pg_binary_pays(const PGresult *result, const pg_text_types *as_text) {
  bool pays = false;
  for (int i = 0; i < PQnfields(result); i++) {
    worth w = worth_of(PQftype(result, i));
    if (w == UNKNOWN || pg_text_types_find(as_text, PQftype(result, i)) != NULL) return false;
    pays = pays || w == PAYS;
  }
  return pays;
}

int64_t pg_binary_integer(const char *data, size_t length) {
  uint64_t value = length > 0 && (data[0] & 0x80) != 0 ? UINT64_MAX : 0;
  for (size_t i = 0; i < length; i++)
    value = value << 8 | (unsigned char)data[i];
  return (int64_t)value;
}

static char *digits(char *out, int64_t value, int least) {
  char reversed[20];
  int n = 0;
  do {
    reversed[n++] = (char)('0' + value % 10);
    value /= 10;
  } while (value > 0);
  while (n < least)
    reversed[n++] = '0';
  while (n > 0)
    *out++ = reversed[--n];
  return out;
}

/* The date of a day since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms":
 * civil_from_days). Years before 1 count backwards from 1 BC. */
static char *date(char *out, int64_t day, bool *before) {
  day += 719468;
  int64_t era = (day >= 0 ? day : day - 146096) / 146097;
  int64_t of_era = day - era * 146097;
  int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
  int64_t shifted = (5 * of_year + 2) / 153; /* March is 0 */
  int64_t month = shifted < 10 ? shifted + 3 : shifted - 9;
  year += era * 400 + (month <= 2);
  *before = year <= 0;
  out = digits(out, *before ? 1 - year : year, 4);
  *out++ = '-';
  out = digits(out, month, 2);
  *out++ = '-';
  return digits(out, of_year - (153 * shifted + 2) / 5 + 1, 2);
}

size_t pg_binary_timestamp(int64_t microseconds, bool zone, char out[PG_TIMESTAMP_MOST]) {
  if (microseconds == INT64_MAX || microseconds == INT64_MIN) {
    const char *text = microseconds > 0 ? "infinity" : "-infinity";
    memcpy(out, text, strlen(text));
    return strlen(text);
  }
  int64_t day = microseconds / DAY, rest = microseconds % DAY;
  if (rest < 0) {
    rest += DAY;
    day--;
  }
  bool before;
  char *end = date(out, day + 10957, &before);
  const struct {
    char mark;
    int64_t unit;
  } PARTS[] = {{'T', INT64_C(3600000000)}, {':', INT64_C(60000000)}, {':', INT64_C(1000000)}};
  for (size_t i = 0; i < 3; i++) {
    *end++ = PARTS[i].mark;
    end = digits(end, rest / PARTS[i].unit, 2);
    rest %= PARTS[i].unit;
  }
  *end++ = '.';
  end = digits(end, rest, 6);
  if (zone) *end++ = 'Z';
  if (before) {
    memcpy(end, " BC", 3);
    end += 3;
  }
  return (size_t)(end - out);
}
