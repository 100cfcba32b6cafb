/* time_zone.c: TZif (RFC 8536): a list of transitions, then a rule (POSIX TZ) for what follows. */
#include "time/time_zone.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "time/time_calendar.h"

enum { HEADER = 44, TYPE_SIZE = 6, FILE_MOST = 1 << 20, DAY_SECONDS = 86400, NAME_MOST = 64 };

/* A day of each year: 'M' month.week.weekday, 'J' day 1 to 365 without leap days, 'N' day from 0.
 */
typedef struct zone_date {
  char kind;
  int month, week, day;
  int32_t clock; /* seconds after midnight, perhaps negative */
} zone_date;

typedef struct zone_rule {
  time_offset standard, daylight;
  bool has_daylight;
  zone_date start, end;
} zone_rule;

struct time_zone {
  bool has_rule;
  zone_rule rule;
  size_t count, types, chars;
  const unsigned char *times, *indexes, *infos, *names; /* into data */
  unsigned char data[];
};

static int64_t read_signed(const unsigned char *at, int bytes) {
  uint64_t value = (at[0] & 0x80) != 0 ? UINT64_MAX : 0;
  for (int i = 0; i < bytes; i++)
    value = value << 8 | at[i];
  return (int64_t)value;
}

static size_t read_count(const unsigned char *at) {
  return (size_t)at[0] << 24 | (size_t)at[1] << 16 | (size_t)at[2] << 8 | at[3];
}

/* ---- the rule at the file's end ---- */

static bool rule_number(const char **at, int most, int *out) {
  *out = 0;
  if (**at < '0' || **at > '9') return false;
  for (; **at >= '0' && **at <= '9'; ++*at) {
    *out = *out * 10 + (**at - '0');
    if (*out > most) return false;
  }
  return true;
}

/* [+-]hh[:mm[:ss]] */
static bool rule_clock(const char **at, int32_t *seconds) {
  bool negative = **at == '-';
  *at += **at == '-' || **at == '+';
  int part;
  if (!rule_number(at, 167, &part)) return false;
  *seconds = part * 3600;
  for (int scale = 60; scale > 0 && **at == ':'; scale /= 60) {
    ++*at;
    if (!rule_number(at, 59, &part)) return false;
    *seconds += part * scale;
  }
  *seconds = negative ? -*seconds : *seconds;
  return true;
}

static bool rule_name(const char **at, char name[16]) {
  bool quoted = **at == '<';
  *at += quoted;
  size_t length = 0;
  for (; **at != '\0'; ++*at) {
    char c = **at;
    bool letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (!letter && !(quoted && ((c >= '0' && c <= '9') || c == '+' || c == '-'))) break;
    if (length == 15) return false;
    name[length++] = c;
  }
  name[length] = '\0';
  if (quoted && *(*at)++ != '>') return false;
  return length > 0;
}

static bool rule_date(const char **at, zone_date *out) {
  out->clock = 2 * 3600;
  out->kind = 'N';
  if (**at == 'M') {
    out->kind = 'M';
    ++*at;
    if (!rule_number(at, 12, &out->month) || *(*at)++ != '.') return false;
    if (!rule_number(at, 5, &out->week) || *(*at)++ != '.') return false;
    if (!rule_number(at, 6, &out->day)) return false;
    if (out->month == 0 || out->week == 0) return false;
  } else {
    if (**at == 'J') {
      out->kind = 'J';
      ++*at;
    }
    if (!rule_number(at, 365, &out->day)) return false;
  }
  if (**at != '/') return true;
  ++*at;
  return rule_clock(at, &out->clock);
}

/* "CET-1CEST,M3.5.0,M10.5.0/3": offsets count westward here. */
static bool rule_parse(const char *text, zone_rule *out) {
  const char *at = text;
  int32_t west;
  if (!rule_name(&at, out->standard.name) || !rule_clock(&at, &west)) return false;
  out->standard.seconds = -west;
  out->standard.daylight = false;
  out->has_daylight = *at != '\0';
  if (!out->has_daylight) return true;
  if (!rule_name(&at, out->daylight.name)) return false;
  out->daylight.seconds = out->standard.seconds + 3600;
  out->daylight.daylight = true;
  if (*at != ',') {
    if (!rule_clock(&at, &west)) return false;
    out->daylight.seconds = -west;
  }
  if (*at++ != ',' || !rule_date(&at, &out->start)) return false;
  return *at++ == ',' && rule_date(&at, &out->end) && *at == '\0';
}

/* The second of the year's date, as a clock at Greenwich would show it. */
static int64_t date_second(const zone_date *date, int64_t year) {
  int64_t day;
  if (date->kind == 'M') {
    int64_t first = time_days(year, date->month, 1);
    int64_t weekday = ((first % 7) + 11) % 7;
    day = first + (date->day - weekday + 7) % 7 + 7 * (date->week - 1);
    int64_t next =
        date->month == 12 ? time_days(year + 1, 1, 1) : time_days(year, date->month + 1, 1);
    if (day >= next) day -= 7; // the fifth is the last
  } else {
    bool leap = time_days(year + 1, 1, 1) - time_days(year, 1, 1) == 366;
    bool skip = date->kind == 'J' && leap && date->day >= 60;
    day = time_days(year, 1, 1) + date->day - (date->kind == 'J') + skip;
  }
  return day * DAY_SECONDS + date->clock;
}

static time_offset rule_at(const zone_rule *self, int64_t second) {
  if (!self->has_daylight) return self->standard;
  int64_t year = time_fields_at(second * 1000000, self->standard.seconds).year;
  int64_t start = date_second(&self->start, year) - self->standard.seconds;
  int64_t end = date_second(&self->end, year) - self->daylight.seconds;
  bool daylight = start < end ? second >= start && second < end : second >= start || second < end;
  return daylight ? self->daylight : self->standard;
}

/* ---- the file ---- */

typedef struct block {
  size_t count, types, chars, size; /* of the data behind the header */
} block;

static bool block_read(const unsigned char *at, size_t room, size_t time_size, block *out) {
  if (room < HEADER || memcmp(at, "TZif", 4) != 0) return false;
  size_t universal = read_count(at + 20), standard = read_count(at + 24),
         leap = read_count(at + 28);
  out->count = read_count(at + 32);
  out->types = read_count(at + 36);
  out->chars = read_count(at + 40);
  out->size = out->count * (time_size + 1) + out->types * TYPE_SIZE + out->chars +
              leap * (time_size + 4) + standard + universal;
  return out->size <= room - HEADER && out->types > 0 && out->chars > 0;
}

static bool zone_check(time_zone *self) {
  for (size_t i = 0; i < self->count; i++)
    if (self->indexes[i] >= self->types) return false;
  for (size_t i = 0; i < self->types; i++)
    if (self->infos[i * TYPE_SIZE + 5] >= self->chars) return false;
  return self->names[self->chars - 1] == '\0';
}

time_zone_error time_zone_read(const void *data, size_t length, time_zone **out) {
  block first, second;
  const unsigned char *bytes = data;
  if (!block_read(bytes, length, 4, &first) || bytes[4] < '2') return TIME_ZONE_DAMAGED;
  size_t skip = HEADER + first.size; // the block with times of 32 bits
  if (!block_read(bytes + skip, length - skip, 8, &second)) return TIME_ZONE_DAMAGED;
  time_zone *self = calloc(1, sizeof *self + length + 1); // terminated
  if (self == NULL) return TIME_ZONE_NO_MEMORY;
  memcpy(self->data, data, length);
  self->count = second.count;
  self->types = second.types;
  self->chars = second.chars;
  self->times = self->data + skip + HEADER;
  self->indexes = self->times + 8 * self->count;
  self->infos = self->indexes + self->count;
  self->names = self->infos + TYPE_SIZE * self->types;
  char *footer = (char *)self->data + skip + HEADER + second.size;
  bool good = zone_check(self) && *footer == '\n';
  char *end = good ? strchr(footer + 1, '\n') : NULL;
  if (end != NULL && end > footer + 1) {
    *end = '\0';
    self->has_rule = rule_parse(footer + 1, &self->rule);
    good = self->has_rule;
  }
  if (!good || end == NULL) {
    free(self);
    return TIME_ZONE_DAMAGED;
  }
  *out = self;
  return TIME_ZONE_OK;
}

static bool name_is_safe(const char *name) {
  size_t length = strlen(name);
  if (length == 0 || length > NAME_MOST || name[0] == '/' || name[0] == '-') return false;
  return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-/") ==
         length;
}

time_zone_error time_zone_load(const char *name, time_zone **out) {
  if (!name_is_safe(name)) return TIME_ZONE_UNKNOWN;
  char path[512];
  const char *directory = getenv("TZDIR");
  int written = snprintf(path, sizeof path, "%s/%s",
                         directory != NULL ? directory : "/usr/share/zoneinfo", name);
  if (written < 0 || (size_t)written >= sizeof path) return TIME_ZONE_UNKNOWN;
  FILE *file = fopen(path, "rbe");
  if (file == NULL) return TIME_ZONE_UNKNOWN;
  time_zone_error error = TIME_ZONE_NO_MEMORY;
  unsigned char *data = malloc(FILE_MOST);
  if (data != NULL) {
    size_t length = fread(data, 1, FILE_MOST, file);
    error = ferror(file) ? TIME_ZONE_UNKNOWN : time_zone_read(data, length, out); // a directory
  }
  free(data);
  (void)fclose(file);
  return error;
}

void time_zone_free(time_zone *self) {
  free(self);
}

static time_offset type_at(const time_zone *self, size_t index) {
  const unsigned char *info = self->infos + TYPE_SIZE * index;
  time_offset offset = {.seconds = (int32_t)read_signed(info, 4), .daylight = info[4] != 0};
  (void)snprintf(offset.name, sizeof offset.name, "%s", (const char *)self->names + info[5]);
  return offset;
}

time_offset time_zone_at(const time_zone *self, int64_t second) {
  size_t low = 0, high = self->count; // finds the first transition after `second`
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (read_signed(self->times + 8 * middle, 8) <= second) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == self->count && self->has_rule) return rule_at(&self->rule, second);
  return type_at(self, low == 0 ? 0 : self->indexes[low - 1]);
}
