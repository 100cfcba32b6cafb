/* blob_path.c: keys to paths and back. */
#include "blob/blob_path.h"

#include <string.h>

static const char HEX[] = "0123456789ABCDEF";

const char *blob_key_problem(const char *key, size_t length) {
  if (length == 0) return "a key must not be empty";
  if (length > BLOB_KEY_MOST) return "a key has at most 1024 bytes";
  if (memchr(key, '\0', length) != NULL) return "a key must not hold a NUL byte";
  return NULL;
}

static void append_percent(bytes *out, unsigned char c) {
  char text[3] = {'%', HEX[c >> 4], HEX[c & 15]};
  bytes_append(out, text, sizeof text);
}

static void append_name(bytes *out, const char *part, size_t length) {
  if (length == 0) bytes_append_text(out, "%-");
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)part[i];
    if (c < 0x20 || c == 0x7F || c == '%' || (c == '.' && i == 0)) {
      append_percent(out, c);
    } else {
      bytes_append_char(out, part[i]);
    }
  }
}

void blob_path_append(bytes *out, const char *key, size_t length) {
  const char *end = key + length;
  for (bool last = false; !last;) {
    const char *slash = memchr(key, '/', (size_t)(end - key));
    const char *stop = slash == NULL ? end : slash;
    last = slash == NULL;
    for (; stop - key >= BLOB_NAME_CUT; key += BLOB_NAME_CUT) {
      bytes_append_char(out, '/');
      append_name(out, key, BLOB_NAME_CUT);
      bytes_append_text(out, "%+");
    }
    bytes_append_char(out, '/');
    append_name(out, key, (size_t)(stop - key));
    key = stop + 1;
  }
  bytes_append_char(out, '%');
}

static int hex_value(char c) {
  const char *at = c == '\0' ? NULL : strchr(HEX, c);
  return at == NULL ? -1 : (int)(at - HEX);
}

blob_name blob_name_read(const char *name, bytes *out) {
  size_t length = strlen(name);
  blob_name kind = BLOB_NAME_DIRECTORY;
  if (length >= 2 && memcmp(name + length - 2, "%+", 2) == 0) {
    kind = BLOB_NAME_CUTOFF;
    length -= 2;
  } else if (length >= 1 && name[length - 1] == '%') {
    kind = BLOB_NAME_OBJECT;
    length--;
  }
  if (length == 2 && memcmp(name, "%-", 2) == 0) length = 0;
  for (size_t i = 0; i < length; i++) {
    if (name[i] != '%') {
      bytes_append_char(out, name[i]);
      continue;
    }
    int high = i + 1 < length ? hex_value(name[i + 1]) : -1;
    int low = i + 2 < length ? hex_value(name[i + 2]) : -1;
    if (high < 0 || low < 0) return BLOB_NAME_OTHER;
    bytes_append_char(out, (char)(high * 16 + low));
    i += 2;
  }
  if (kind == BLOB_NAME_DIRECTORY) bytes_append_char(out, '/');
  return kind;
}

void blob_url_append(bytes *out, const char *key, size_t length) {
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)key[i];
    bool plain = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                 strchr("-._~/", c) != NULL;
    if (plain) {
      bytes_append_char(out, key[i]);
    } else {
      append_percent(out, c);
    }
  }
}
