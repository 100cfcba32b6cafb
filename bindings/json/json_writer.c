/* json_writer.c: strings are copied in runs between the characters that need an escape. */
#include "json/json_writer.h"

#include "json/json_double.h"
#include "json/json_utf8.h"

static size_t escape(unsigned char byte, char out[6]) {
  static const char HEX[] = "0123456789abcdef";
  char short_form = byte == '"'    ? '"'
                    : byte == '\\' ? '\\'
                    : byte == '\b' ? 'b'
                    : byte == '\f' ? 'f'
                    : byte == '\n' ? 'n'
                    : byte == '\r' ? 'r'
                    : byte == '\t' ? 't'
                                   : '\0';
  out[0] = '\\';
  if (short_form != '\0') {
    out[1] = short_form;
    return 2;
  }
  memcpy(out + 1, "u00", 3);
  out[4] = HEX[byte >> 4];
  out[5] = HEX[byte & 15];
  return 6;
}

json_written json_write_string(json_buffer *out, const char *text, size_t length, size_t *bad) {
  const unsigned char *at = (const unsigned char *)text, *end = at + length, *run = at;
  if (length > SIZE_MAX - 2 || !json_buffer_reserve(out, length + 2)) return JSON_WRITTEN_NO_MEMORY;
  out->data[out->length++] = '"';
  while ((at = json_utf8_skip_plain(at, end)) < end) {
    if (*at >= 0x80) {
      size_t sequence = json_utf8_sequence(at, end);
      if (sequence == 0) {
        *bad = (size_t)(at - (const unsigned char *)text);
        return JSON_WRITTEN_NOT_UTF8;
      }
      at += sequence;
      continue;
    }
    char escaped[6];
    size_t size = escape(*at, escaped);
    if (!json_buffer_append(out, (const char *)run, (size_t)(at - run)) ||
        !json_buffer_append(out, escaped, size))
      return JSON_WRITTEN_NO_MEMORY;
    run = ++at;
  }
  if (!json_buffer_append(out, (const char *)run, (size_t)(at - run)) ||
      !json_buffer_byte(out, '"'))
    return JSON_WRITTEN_NO_MEMORY;
  return JSON_WRITTEN;
}

bool json_write_integer(json_buffer *out, int64_t value) {
  if (!json_buffer_reserve(out, JSON_DOUBLE_MOST)) return false;
  out->length += json_integer_format(value, out->data + out->length);
  return true;
}

bool json_write_double(json_buffer *out, double value) {
  if (!json_buffer_reserve(out, JSON_DOUBLE_MOST)) return false;
  out->length += json_double_format(value, out->data + out->length);
  return true;
}

bool json_write_indent(json_buffer *out, size_t width) {
  if (!json_buffer_reserve(out, width + 1)) return false;
  out->data[out->length++] = '\n';
  memset(out->data + out->length, ' ', width);
  out->length += width;
  return true;
}
