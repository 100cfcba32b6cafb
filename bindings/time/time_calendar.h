/* time_calendar.h: points in time as text (ISO 8601 in its RFC 3339 form) and as calendar fields,
 * in the proleptic Gregorian calendar, years 1 to 9999. Any thread. */
#ifndef NEBULA_TIME_CALENDAR_H
#define NEBULA_TIME_CALENDAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct time_fields {
  int64_t year;
  int month, day; /* from 1 */
  int hour, minute, second, microsecond;
  int weekday; /* 0 is Sunday */
  int yearday; /* from 1 */
} time_fields;

enum { TIME_TEXT_MOST = 40 };

/* The least and the greatest point in time with a text, in microseconds since 1970. */
#define TIME_LEAST INT64_C(-62135596800000000)
#define TIME_MOST INT64_C(253402300799999999)

/* Days since 1970-01-01. */
int64_t time_days(int64_t year, int month, int day);

/* The fields of a point in time as a clock `offset` seconds east of Greenwich shows it. */
time_fields time_fields_at(int64_t microseconds, int32_t offset);

/* Reads "2026-11-22T17:58:03.123456Z": a blank may stand for the T, the fraction and the time may
 * be missing, the offset is Z, +01, +0100, +01:00 or +01:00:00; without one it is UTC. A second of
 * 60 counts into the next minute. Digits beyond microseconds are rounded. False where the text is
 * something else; *expected then says what should stand at *bad. */
bool time_parse(const char *text, size_t length, int64_t *microseconds, size_t *bad,
                const char **expected);

/* Writes "2026-11-22T17:58:03.123456" and the offset: "Z" where `utc`, else "+01:00". Returns the
 * length, without a terminator. The time is within TIME_LEAST and TIME_MOST. */
size_t time_format(int64_t microseconds, int32_t offset, bool utc, char out[TIME_TEXT_MOST]);

#endif
