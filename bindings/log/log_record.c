/* log_record.c: the two formats of a record, and the write that keeps it in one piece. */
#include "log/log_record.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "json/json_utf8.h"
#include "json/json_writer.h"
#include "log/log_redact.h"
#include "time/time_calendar.h"

static const char *const LEVELS[] = {"debug", "info", "warn", "error", "off"};

const char *log_level_name(log_level level) {
  return LEVELS[level];
}

bool log_settings_parse(const char *text, log_settings *out) {
  *out = (log_settings){.least = LOG_INFO};
  if (text == NULL || *text == '\0') return true;
  if (strncmp(text, "json", 4) == 0 && (text[4] == ':' || text[4] == '\0')) {
    out->json = true;
    text += text[4] == ':' ? 5 : 4;
    if (*text == '\0') return true;
  } else if (strncmp(text, "text:", 5) == 0) {
    text += 5;
  }
  for (int level = LOG_DEBUG; level <= LOG_OFF; level++) {
    if (strcmp(text, LEVELS[level]) == 0) {
      out->least = (log_level)level;
      return true;
    }
  }
  return false;
}

static bool append(json_buffer *out, const char *text) {
  return json_buffer_append(out, text, strlen(text));
}

/* Replaces what is no UTF-8, from `from` to the buffer's end, by writing it anew behind. */
static bool append_clean(json_buffer *out, const char *text, size_t length) {
  const unsigned char *at = (const unsigned char *)text, *end = at + length;
  while (at < end) {
    size_t sequence = *at < 0x80 ? 1 : json_utf8_sequence(at, end);
    bool done = sequence > 0 ? json_buffer_append(out, (const char *)at, sequence)
                             : append(out, "\xEF\xBF\xBD");
    if (!done) return false;
    at += sequence > 0 ? sequence : 1;
  }
  return true;
}

/* Redacts and cleans text into *clean, which the caller frees. */
static bool prepare(json_buffer *clean, const char *text, size_t length) {
  json_buffer redacted = {0};
  bool done = log_append_redacted(&redacted, text, length) &&
              append_clean(clean, redacted.data == NULL ? "" : redacted.data, redacted.length);
  json_buffer_free(&redacted);
  return done;
}

bool log_json_text(json_buffer *out, const char *text, size_t length) {
  json_buffer clean = {0};
  size_t bad;
  bool done = prepare(&clean, text, length) &&
              json_write_string(out, clean.data == NULL ? "" : clean.data, clean.length, &bad) ==
                  JSON_WRITTEN;
  json_buffer_free(&clean);
  return done;
}

/* True where text can stand for itself in a line of key=value. */
static bool is_bare(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7F) return false;
  }
  return length > 0;
}

/* A message is free text: only what would end the line or forge a terminal's colours is escaped. */
static bool append_message(json_buffer *out, const char *text, size_t length) {
  static const char HEX[] = "0123456789abcdef";
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    char escaped[4] = {'\\', 'x', HEX[c >> 4], HEX[c & 15]};
    bool done = c >= ' ' && c != 0x7F ? json_buffer_byte(out, (char)c)
                : c == '\n'           ? append(out, "\\n")
                : c == '\t'           ? append(out, "\\t")
                                      : json_buffer_append(out, escaped, sizeof escaped);
    if (!done) return false;
  }
  return true;
}

bool log_record_text(json_buffer *out, const log_settings *settings, const char *text,
                     size_t length) {
  if (settings->json || !is_bare(text, length)) return log_json_text(out, text, length);
  json_buffer clean = {0};
  bool done = prepare(&clean, text, length) && json_buffer_append(out, clean.data, clean.length);
  json_buffer_free(&clean);
  return done;
}

static bool append_time(json_buffer *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  char text[TIME_TEXT_MOST];
  size_t length = time_format((int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000, 0, true, text);
  return json_buffer_append(out, text, length);
}

bool log_record_begin(json_buffer *out, const log_settings *settings, log_level level,
                      const char *message, size_t length) {
  if (settings->json)
    return append(out, "{\"time\":\"") && append_time(out) && append(out, "\",\"level\":\"") &&
           append(out, LEVELS[level]) && append(out, "\",\"message\":") &&
           log_json_text(out, message, length);
  json_buffer clean = {0};
  bool short_name = level == LOG_INFO || level == LOG_WARN;
  bool done = append_time(out) && append(out, " ") && append(out, LEVELS[level]) &&
              append(out, short_name ? "  " : " ") && prepare(&clean, message, length) &&
              append_message(out, clean.data, clean.length);
  json_buffer_free(&clean);
  return done;
}

bool log_record_name(json_buffer *out, const log_settings *settings, const char *name,
                     size_t length) {
  if (!settings->json)
    return append(out, " ") &&
           (is_bare(name, length) ? append_clean(out, name, length)
                                  : log_json_text(out, name, length)) &&
           append(out, "=");
  bool taken = (length == 4 && memcmp(name, "time", 4) == 0) ||
               (length == 5 && memcmp(name, "level", 5) == 0) ||
               (length == 7 && memcmp(name, "message", 7) == 0);
  if (!append(out, ",") || !log_json_text(out, name, length)) return false;
  if (taken) { // the record's own comes first: name"  ->  name_"
    out->length--;
    if (!append(out, "_\"")) return false;
  }
  return append(out, ":");
}

static void write_all(int fd, const char *data, size_t length) {
  while (length > 0) {
    ssize_t written = write(fd, data, length);
    if (written >= 0) {
      data += written;
      length -= (size_t)written;
    } else if (errno == EAGAIN) {
      struct pollfd ready = {.fd = fd, .events = POLLOUT};
      if (poll(&ready, 1, 1000) <= 0) return;
    } else if (errno != EINTR) {
      return;
    }
  }
}

void log_record_write(json_buffer *out, const log_settings *settings, int fd) {
  if (append(out, settings->json ? "}\n" : "\n")) write_all(fd, out->data, out->length);
}
