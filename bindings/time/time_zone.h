/* time_zone.h: the rules of one IANA time zone, read from the system's tzdata.
 *
 * The C library knows only the process's own zone, in the environment variable TZ, which cannot be
 * changed for one call while other threads run; so the zone's file (TZif, RFC 8536) is read here.
 * A zone is immutable and may be shared by threads; who loads it frees it. */
#ifndef NEBULA_TIME_ZONE_H
#define NEBULA_TIME_ZONE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct time_zone time_zone;

typedef struct time_offset {
  int32_t seconds; /* east of Greenwich */
  bool daylight;
  char name[16]; /* "CET" */
} time_offset;

typedef enum time_zone_error {
  TIME_ZONE_OK,
  TIME_ZONE_UNKNOWN, /* no such name */
  TIME_ZONE_DAMAGED, /* the file is no TZif */
  TIME_ZONE_NO_MEMORY,
} time_zone_error;

/* Reads "Europe/Berlin" from TZDIR or /usr/share/zoneinfo: a few KiB, blocking. */
time_zone_error time_zone_load(const char *name, time_zone **out);

/* The same from bytes, which are copied. */
time_zone_error time_zone_read(const void *data, size_t length, time_zone **out);

void time_zone_free(time_zone *self); /* safe with NULL */

/* What the zone's clocks show at this second since 1970. */
time_offset time_zone_at(const time_zone *self, int64_t second);

#endif
