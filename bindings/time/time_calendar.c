/* time_calendar.c: days to dates and back after H. Hinnant, "chrono-Compatible Low-Level Date
 * Algorithms" (2013): an era of 400 years that begins in March makes leap days come last. */
#include "time/time_calendar.h"

#include <stdio.h>
#include <string.h>

enum { ERA_YEARS = 400, ERA_DAYS = 146097, DAYS_TO_1970 = 719468, DAY_SECONDS = 86400 };

static const int64_t SECOND = 1000000;

static int64_t floor_divide(int64_t a, int64_t b) {
  return a / b - (a % b < 0);
}

int64_t time_days(int64_t year, int month, int day) {
  year -= month <= 2;
  int64_t era = floor_divide(year, ERA_YEARS);
  int64_t of_era = year - era * ERA_YEARS;
  int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year - DAYS_TO_1970;
}

static bool is_leap(int64_t year) {
  return (year % 4 == 0 && year % 100 != 0) || year % ERA_YEARS == 0;
}

time_fields time_fields_at(int64_t microseconds, int32_t offset) {
  time_fields self;
  int64_t seconds = floor_divide(microseconds, SECOND);
  self.microsecond = (int)(microseconds - seconds * SECOND);
  seconds += offset;
  int64_t days = floor_divide(seconds, DAY_SECONDS);
  int of_day = (int)(seconds - days * DAY_SECONDS);
  self.hour = of_day / 3600;
  self.minute = of_day / 60 % 60;
  self.second = of_day % 60;
  self.weekday = (int)((days % 7 + 11) % 7); // 1970-01-01 was a Thursday
  int64_t shifted = days + DAYS_TO_1970;
  int64_t era = floor_divide(shifted, ERA_DAYS);
  int64_t of_era = shifted - era * ERA_DAYS;
  int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
  int64_t month = (5 * of_year + 2) / 153;
  self.day = (int)(of_year - (153 * month + 2) / 5 + 1);
  self.month = (int)(month < 10 ? month + 3 : month - 9);
  self.year = year + era * ERA_YEARS + (self.month <= 2);
  self.yearday = (int)(days - time_days(self.year, 1, 1)) + 1;
  return self;
}

/* ---- reading ---- */

typedef struct scanner {
  const char *start, *at, *end;
  const char *expected;
} scanner;

static bool expect(scanner *self, const char *what) {
  self->expected = what;
  return false;
}

/* Reads exactly `count` digits. */
static bool scan_digits(scanner *self, int count, int *out, const char *what) {
  *out = 0;
  for (int i = 0; i < count; i++) {
    if (self->at == self->end || *self->at < '0' || *self->at > '9') return expect(self, what);
    *out = *out * 10 + (*self->at++ - '0');
  }
  return true;
}

static bool scan_char(scanner *self, char c) {
  if (self->at == self->end || *self->at != c) return false;
  self->at++;
  return true;
}

static bool scan_date(scanner *self, int64_t *days) {
  static const int LENGTHS[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  int year, month, day;
  if (!scan_digits(self, 4, &year, "a year of four digits")) return false;
  if (year == 0) return expect(self, "a year from 0001 to 9999");
  if (!scan_char(self, '-')) return expect(self, "'-' after the year");
  if (!scan_digits(self, 2, &month, "a month of two digits")) return false;
  if (month < 1 || month > 12) return expect(self, "a month from 01 to 12");
  if (!scan_char(self, '-')) return expect(self, "'-' after the month");
  if (!scan_digits(self, 2, &day, "a day of two digits")) return false;
  int last = LENGTHS[month - 1] + (month == 2 && is_leap(year));
  if (day < 1 || day > last) return expect(self, "a day that the month has");
  *days = time_days(year, month, day);
  return true;
}

static bool scan_clock(scanner *self, int64_t *microseconds) {
  int hour, minute, second = 0;
  if (!scan_digits(self, 2, &hour, "an hour of two digits")) return false;
  if (hour > 23) return expect(self, "an hour from 00 to 23");
  if (!scan_char(self, ':')) return expect(self, "':' after the hour");
  if (!scan_digits(self, 2, &minute, "a minute of two digits")) return false;
  if (minute > 59) return expect(self, "a minute from 00 to 59");
  int64_t fraction = 0;
  if (scan_char(self, ':')) {
    if (!scan_digits(self, 2, &second, "a second of two digits")) return false;
    if (second > 60) return expect(self, "a second from 00 to 60");
    if (scan_char(self, '.') || scan_char(self, ',')) {
      int64_t scale = SECOND / 10;
      const char *first = self->at;
      for (; self->at < self->end && *self->at >= '0' && *self->at <= '9'; self->at++) {
        if (scale == 0 && self->at - first == 6 && *self->at >= '5') fraction++;
        fraction += (*self->at - '0') * scale;
        scale /= 10;
      }
      if (self->at == first) return expect(self, "a digit after the decimal point");
    }
  }
  *microseconds = (int64_t)(hour * 3600 + minute * 60 + second) * SECOND + fraction;
  return true;
}

static bool scan_offset(scanner *self, int *seconds) {
  int hours, minutes = 0, rest = 0;
  *seconds = 0;
  if (self->at == self->end || scan_char(self, 'Z') || scan_char(self, 'z')) return true;
  bool west = scan_char(self, '-');
  if (!west && !scan_char(self, '+')) return expect(self, "'Z' or an offset such as +01:00");
  if (!scan_digits(self, 2, &hours, "an offset of two digits")) return false;
  bool colon = scan_char(self, ':');
  if (colon || self->at < self->end) {
    if (!scan_digits(self, 2, &minutes, "the offset's minutes, two digits")) return false;
    if (colon && scan_char(self, ':') &&
        !scan_digits(self, 2, &rest, "the offset's seconds, two digits"))
      return false;
  }
  if (hours > 23 || minutes > 59 || rest > 59) return expect(self, "an offset below 24 hours");
  *seconds = hours * 3600 + minutes * 60 + rest;
  if (west) *seconds = -*seconds;
  return true;
}

bool time_parse(const char *text, size_t length, int64_t *microseconds, size_t *bad,
                const char **expected) {
  scanner self = {.start = text, .at = text, .end = text + length};
  int64_t days = 0, clock = 0;
  int offset = 0;
  bool done = scan_date(&self, &days);
  if (done && self.at < self.end) {
    if (scan_char(&self, 'T') || scan_char(&self, 't') || scan_char(&self, ' ')) {
      done = scan_clock(&self, &clock) && scan_offset(&self, &offset);
    } else {
      done = expect(&self, "'T' between date and time");
    }
  }
  if (done && self.at < self.end) done = expect(&self, "nothing after the time");
  if (!done) {
    *bad = (size_t)(self.at - text);
    *expected = self.expected;
    return false;
  }
  *microseconds = (days * DAY_SECONDS - offset) * SECOND + clock;
  return true;
}

size_t time_format(int64_t microseconds, int32_t offset, bool utc, char out[TIME_TEXT_MOST]) {
  time_fields fields = time_fields_at(microseconds, offset);
  char text[96];
  int length = snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%06d", (int)fields.year,
                        fields.month, fields.day, fields.hour, fields.minute, fields.second,
                        fields.microsecond);
  if (utc) {
    text[length++] = 'Z';
  } else {
    int32_t distance = offset < 0 ? -offset : offset;
    length += snprintf(text + length, sizeof text - (size_t)length, "%c%02d:%02d",
                       offset < 0 ? '-' : '+', (int)(distance / 3600), (int)(distance / 60 % 60));
    if (distance % 60 != 0) // local mean time, before the zones
      length +=
          snprintf(text + length, sizeof text - (size_t)length, ":%02d", (int)(distance % 60));
  }
  memcpy(out, text, (size_t)length);
  return (size_t)length;
}
