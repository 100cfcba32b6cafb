/* log_fuzz.c: any text as a log record's message and value: one line in both formats, and redacting
 * twice changes nothing more. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "log/log_record.h"
#include "log/log_redact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *text = (const char *)data;
  for (int json = 0; json < 2; json++) {
    log_settings settings = {LOG_DEBUG, json != 0};
    json_buffer line = {0};
    if (!log_record_begin(&line, &settings, LOG_INFO, text, size) ||
        !log_record_name(&line, &settings, text, size) ||
        !log_record_text(&line, &settings, text, size))
      abort();
    for (size_t i = 0; i < line.length; i++)
      if ((unsigned char)line.data[i] < ' ') abort();
    json_buffer_free(&line);
  }
  json_buffer once = {0}, twice = {0};
  if (!log_append_redacted(&once, text, size)) abort();
  if (once.length > 0 && !log_append_redacted(&twice, once.data, once.length)) abort();
  if (once.length != twice.length ||
      (once.length > 0 && memcmp(once.data, twice.data, once.length) != 0))
    abort();
  json_buffer_free(&once);
  json_buffer_free(&twice);
  return 0;
}
