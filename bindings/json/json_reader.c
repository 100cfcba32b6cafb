/* json_reader.c: the pull parser. Its state says what may come next; `nesting` what to return to.
 */
#include "json/json_reader.h"

#include <stdio.h>
#include <string.h>
#include "json/json_number.h"
#include "json/json_utf8.h"

enum {
  WANT_VALUE,
  WANT_FIRST_ELEMENT, /* or ']' */
  WANT_KEY,
  WANT_FIRST_KEY, /* or '}' */
  WANT_NEXT,      /* ',' or the end of what is open */
};

void json_reader_init(json_reader *self, const char *text, size_t length, unsigned max_depth) {
  self->start = self->at = text;
  self->end = text + length;
  self->depth = 0;
  self->max_depth = max_depth;
  self->state = WANT_VALUE;
  self->expected = NULL;
}

static json_event fail(json_reader *self, const char *at, const char *expected) {
  self->failure = JSON_FAILURE_SYNTAX;
  self->failed_at = at;
  self->expected = expected;
  return JSON_ERROR;
}

static void skip_blank(json_reader *self) {
  const char *at = self->at;
  while (at < self->end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
    at++;
  self->at = at;
}

static bool in_object(const json_reader *self) {
  unsigned level = self->depth - 1;
  return (self->nesting[level / 64] >> (level % 64) & 1) != 0;
}

static json_event open_level(json_reader *self, bool object) {
  if (self->depth >= self->max_depth) {
    self->failure = JSON_FAILURE_DEPTH;
    self->failed_at = self->at;
    return JSON_ERROR;
  }
  uint64_t bit = UINT64_C(1) << (self->depth % 64);
  uint64_t *word = &self->nesting[self->depth / 64];
  *word = object ? *word | bit : *word & ~bit;
  self->depth++;
  self->at++;
  self->state = object ? WANT_FIRST_KEY : WANT_FIRST_ELEMENT;
  return object ? JSON_OBJECT : JSON_ARRAY;
}

static json_event close_level(json_reader *self) {
  bool object = in_object(self);
  self->depth--;
  self->at++;
  self->state = WANT_NEXT;
  return object ? JSON_OBJECT_END : JSON_ARRAY_END;
}

/* Four hex digits at `at`, or -1. */
static int hex4(const char *at, const char *end) {
  int value = 0;
  if (end - at < 4) return -1;
  for (int i = 0; i < 4; i++) {
    char c = at[i];
    int digit = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

/* Checks the escape at `at` (its backslash); returns what follows it, or NULL after fail(). */
static const char *check_escape(json_reader *self, const char *at) {
  if (at + 1 >= self->end) {
    fail(self, self->end, "an escape after the backslash");
    return NULL;
  }
  if (at[1] != 'u') {
    if (at[1] != '\0' && strchr("\"\\/bfnrt", at[1]) != NULL) return at + 2;
    fail(self, at + 1, "one of \" \\ / b f n r t u after a backslash");
    return NULL;
  }
  int unit = hex4(at + 2, self->end);
  if (unit < 0) {
    fail(self, at + 2, "four hexadecimal digits after \\u");
    return NULL;
  }
  if (unit < 0xD800 || unit > 0xDFFF) return at + 6;
  int second = -1;
  if (unit <= 0xDBFF && self->end - at >= 8 && at[6] == '\\' && at[7] == 'u')
    second = hex4(at + 8, self->end);
  if (second < 0xDC00 || second > 0xDFFF) {
    fail(self, at, "a pair of surrogates: a high one, then a low one");
    return NULL;
  }
  return at + 12;
}

/* Reads the string at the cursor, which stands on its opening quote. */
static bool read_string(json_reader *self) {
  const unsigned char *end = (const unsigned char *)self->end;
  const unsigned char *at = (const unsigned char *)self->at + 1;
  self->text = self->at + 1;
  self->escaped = false;
  for (;;) {
    at = json_utf8_skip_plain(at, end);
    if (at == end) {
      fail(self, self->end, "'\"' at the end of a string");
      return false;
    }
    if (*at == '"') break;
    if (*at == '\\') {
      self->escaped = true;
      at = (const unsigned char *)check_escape(self, (const char *)at);
      if (at == NULL) return false;
    } else if (*at < 0x20) {
      fail(self, (const char *)at, "control characters escaped in a string");
      return false;
    } else {
      size_t length = json_utf8_sequence(at, end);
      if (length == 0) {
        fail(self, (const char *)at, "valid UTF-8");
        return false;
      }
      at += length;
    }
  }
  self->length = (size_t)((const char *)at - self->text);
  self->at = (const char *)at + 1;
  return true;
}

static json_event read_number(json_reader *self) {
  json_number number = json_number_read(self->at, self->end);
  if (number.kind == JSON_NUMBER_BAD) return fail(self, number.end, number.expected);
  self->text = self->at;
  self->length = (size_t)(number.end - self->at);
  self->at = number.end;
  self->integer = number.integer;
  self->number = number.number;
  return number.kind == JSON_NUMBER_INTEGER  ? JSON_INTEGER
         : number.kind == JSON_NUMBER_DOUBLE ? JSON_DOUBLE
                                             : JSON_EXACT;
}

static json_event read_word(json_reader *self, const char *word, json_event event) {
  size_t length = strlen(word);
  if ((size_t)(self->end - self->at) < length || memcmp(self->at, word, length) != 0)
    return fail(self, self->at, "a value");
  self->at += length;
  return event;
}

static json_event read_value(json_reader *self) {
  if (self->at == self->end) return fail(self, self->at, "a value");
  self->state = WANT_NEXT;
  switch (*self->at) {
  case '{': return open_level(self, true);
  case '[': return open_level(self, false);
  case '"': return read_string(self) ? JSON_STRING : JSON_ERROR;
  case 'n': return read_word(self, "null", JSON_NULL);
  case 't': return read_word(self, "true", JSON_TRUE);
  case 'f': return read_word(self, "false", JSON_FALSE);
  default:
    if (*self->at == '-' || (*self->at >= '0' && *self->at <= '9')) return read_number(self);
    return fail(self, self->at, "a value");
  }
}

static json_event read_key(json_reader *self, const char *expected) {
  if (self->at == self->end || *self->at != '"') return fail(self, self->at, expected);
  if (!read_string(self)) return JSON_ERROR;
  skip_blank(self);
  if (self->at == self->end || *self->at != ':') return fail(self, self->at, "':' after a key");
  self->at++;
  self->state = WANT_VALUE;
  return JSON_KEY;
}

json_event json_reader_next(json_reader *self) {
  skip_blank(self);
  char c = self->at < self->end ? *self->at : '\0';
  switch (self->state) {
  case WANT_FIRST_ELEMENT: return c == ']' ? close_level(self) : read_value(self);
  case WANT_FIRST_KEY: return c == '}' ? close_level(self) : read_key(self, "a key or '}'");
  case WANT_NEXT: break;
  default: return read_value(self);
  }
  if (self->depth == 0) {
    if (self->at == self->end) return JSON_END;
    return fail(self, self->at, "nothing after the value");
  }
  bool object = in_object(self);
  if (c == (object ? '}' : ']')) return close_level(self);
  if (c != ',') return fail(self, self->at, object ? "',' or '}'" : "',' or ']'");
  self->at++;
  skip_blank(self);
  return object ? read_key(self, "a key") : read_value(self);
}

static char *put_utf8(char *out, unsigned code) {
  if (code < 0x80) {
    *out++ = (char)code;
    return out;
  }
  if (code < 0x800) {
    *out++ = (char)(0xC0 | code >> 6);
  } else {
    if (code < 0x10000) {
      *out++ = (char)(0xE0 | code >> 12);
    } else {
      *out++ = (char)(0xF0 | code >> 18);
      *out++ = (char)(0x80 | (code >> 12 & 0x3F));
    }
    *out++ = (char)(0x80 | (code >> 6 & 0x3F));
  }
  *out++ = (char)(0x80 | (code & 0x3F));
  return out;
}

size_t json_reader_unescape(const json_reader *self, char *out) {
  const char *at = self->text, *end = self->text + self->length;
  char *to = out;
  while (at < end) {
    const char *slash = memchr(at, '\\', (size_t)(end - at));
    size_t plain = (size_t)((slash == NULL ? end : slash) - at);
    memcpy(to, at, plain);
    to += plain;
    if (slash == NULL) break;
    at = slash + 2;
    switch (slash[1]) {
    case 'b': *to++ = '\b'; break;
    case 'f': *to++ = '\f'; break;
    case 'n': *to++ = '\n'; break;
    case 'r': *to++ = '\r'; break;
    case 't': *to++ = '\t'; break;
    case 'u': {
      unsigned code = (unsigned)hex4(at, end);
      at += 4;
      if (code >= 0xD800 && code <= 0xDFFF) {
        code = 0x10000 + ((code - 0xD800) << 10) + ((unsigned)hex4(at + 2, end) - 0xDC00);
        at += 6;
      }
      to = put_utf8(to, code);
      break;
    }
    default: *to++ = slash[1];
    }
  }
  return (size_t)(to - out);
}

void json_reader_place(const json_reader *self, size_t *line, size_t *column) {
  *line = *column = 1;
  for (const char *at = self->start; at < self->failed_at; at++) {
    if (*at == '\n') {
      ++*line;
      *column = 1;
    } else if (((unsigned char)*at & 0xC0) != 0x80) {
      ++*column;
    }
  }
}

void json_reader_describe(const json_reader *self, char *out, size_t size) {
  size_t line, column;
  json_reader_place(self, &line, &column);
  if (self->failure == JSON_FAILURE_DEPTH) {
    (void)snprintf(out, size, "line %zu, column %zu: nested deeper than %u levels", line, column,
                   self->max_depth);
    return;
  }
  char found[32] = "the end of the text";
  if (self->failed_at < self->end) {
    const unsigned char *at = (const unsigned char *)self->failed_at;
    size_t length = *at >= 0x80 ? json_utf8_sequence(at, (const unsigned char *)self->end) : 1;
    if (*at < 0x20 || *at == 0x7F || length == 0)
      (void)snprintf(found, sizeof found, "the byte 0x%02X", *at);
    else
      (void)snprintf(found, sizeof found, "'%.*s'", (int)length, self->failed_at);
  }
  (void)snprintf(out, size, "line %zu, column %zu: expected %s, found %s", line, column,
                 self->expected, found);
}
