/* time_fuzz.c: bytes as the text of a time, and as the data of a zone. */
#include <stdint.h>
#include <stdlib.h>
#include "time/time_calendar.h"
#include "time/time_zone.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *text, size_t length) {
  int64_t at, again;
  size_t bad;
  const char *expected;
  char out[TIME_TEXT_MOST];
  if (!time_parse(text, length, &at, &bad, &expected)) {
    if (bad > length || expected == NULL) abort();
    return;
  }
  if (at < TIME_LEAST || at > TIME_MOST) return; // an offset led out of the years 1 to 9999
  size_t written = time_format(at, 0, true, out);
  if (!time_parse(out, written, &again, &bad, &expected) || again != at) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const int64_t SECONDS[] = {INT64_C(-9000000000), -1, 0, 1795370283, INT64_C(9000000000)};
  check_text((const char *)data, size);
  time_zone *zone;
  if (time_zone_read(data, size, &zone) != TIME_ZONE_OK) return 0;
  for (size_t i = 0; i < sizeof SECONDS / sizeof SECONDS[0]; i++)
    (void)time_zone_at(zone, SECONDS[i]);
  time_zone_free(zone);
  return 0;
}
