/* text.c: characters by mbrtowc, their columns by wcwidth, both under a locale of our own. */
#include "text.h"

#include <stdint.h>
#include <string.h>
#include <wchar.h>

bool text_open(text_locale *self) {
  self->types = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
  return self->types != (locale_t)0;
}

void text_close(text_locale *self) {
  if (self->types != (locale_t)0) freelocale(self->types);
  self->types = (locale_t)0;
}

/* The bytes of the character at `text`, and its columns. */
static size_t next_character(const char *text, size_t length, size_t *columns) {
  wchar_t code;
  mbstate_t state = {0};
  size_t bytes = mbrtowc(&code, text, length, &state);
  *columns = 1;
  if (bytes == 0 || bytes > length) return 1; // NUL, or no character
  int width = wcwidth(code);
  if (width >= 0) *columns = (size_t)width;
  return bytes;
}

static size_t ascii_prefix(const char *text, size_t length) {
  size_t i = 0;
  while (i + sizeof(uint64_t) <= length) {
    uint64_t word;
    memcpy(&word, text + i, sizeof word);
    if (word & UINT64_C(0x8080808080808080)) break;
    i += sizeof word;
  }
  while (i < length && (unsigned char)text[i] < 0x80)
    i++;
  return i;
}

size_t text_fit(const text_locale *self, const char *text, size_t length, size_t width,
                size_t *used) {
  size_t at = ascii_prefix(text, length < width ? length : width);
  *used = at;
  if (at == length || at == width) return at;
  locale_t before = uselocale(self->types);
  while (at < length) {
    size_t columns, bytes = next_character(text + at, length - at, &columns);
    if (*used + columns > width) break;
    *used += columns;
    at += bytes;
  }
  uselocale(before);
  return at;
}

size_t text_width(const text_locale *self, const char *text, size_t length) {
  size_t used;
  text_fit(self, text, length, SIZE_MAX, &used);
  return used;
}

bool text_is_plain(const char *text, size_t length) {
  for (size_t i = 0; i < length; i++) {
    unsigned char byte = (unsigned char)text[i];
    if (byte < 0x20 || byte == 0x7f || byte == 0xc2) return false; // 0xc2: perhaps a C1 control
  }
  return true;
}
