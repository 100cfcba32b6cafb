/* log_record.h: one log record as one line, as text or as JSON.
 *
 *   2026-11-22T17:58:03.123456Z info  archived day=2026-11-21 rows=12 url="s3://x y"
 *   {"time":"2026-11-22T17:58:03.123456Z","level":"info","message":"archived","rows":12}
 *
 * What the environment variable NEBULA_LOG says: a level (debug, info, warn, error, off), or
 * text:LEVEL or json:LEVEL. Functions that append return false on a lack of memory. Any thread. */
#ifndef NEBULA_LOG_RECORD_H
#define NEBULA_LOG_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include "json/json_buffer.h"

typedef enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF } log_level;

typedef struct log_settings {
  log_level least;
  bool json;
} log_settings;

/* Reads NEBULA_LOG's text; NULL and "" give info, as text. False where it is something else. */
bool log_settings_parse(const char *text, log_settings *out);

const char *log_level_name(log_level level);

/* Begins a record: time, level and message, its secrets redacted. */
bool log_record_begin(json_buffer *out, const log_settings *settings, log_level level,
                      const char *message, size_t length);

/* Appends a field's name and what stands before its value. */
bool log_record_name(json_buffer *out, const log_settings *settings, const char *name,
                     size_t length);

/* Appends a text value, redacted, quoted and escaped as the format wants it. */
bool log_record_text(json_buffer *out, const log_settings *settings, const char *text,
                     size_t length);

/* Appends text as a JSON string, redacted; bytes that are no UTF-8 become U+FFFD. */
bool log_json_text(json_buffer *out, const char *text, size_t length);

/* Ends the record and writes it to the file descriptor in one piece; a full pipe is waited for at
 * most a second. */
void log_record_write(json_buffer *out, const log_settings *settings, int fd);

#endif
