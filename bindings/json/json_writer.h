/* json_writer.h: single JSON values as text at the end of a buffer. Any thread, one at a time. */
#ifndef NEBULA_JSON_WRITER_H
#define NEBULA_JSON_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "json/json_buffer.h"

typedef enum json_written {
  JSON_WRITTEN,
  JSON_WRITTEN_NO_MEMORY,
  JSON_WRITTEN_NOT_UTF8, /* *bad is the offset of the first wrong byte */
} json_written;

/* Writes a string with its quotes. */
json_written json_write_string(json_buffer *out, const char *text, size_t length, size_t *bad);

/* False on a lack of memory. The double is finite. */
bool json_write_integer(json_buffer *out, int64_t value);
bool json_write_double(json_buffer *out, double value);

/* A line break and `width` blanks. */
bool json_write_indent(json_buffer *out, size_t width);

#endif
