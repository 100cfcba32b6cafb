/* uri.c: see uri.h. */
#include "http/uri.h"

#include <string.h>
#include <strings.h>

static bool is_scheme(uri_span scheme, const char *name) {
  return scheme.length == strlen(name) && strncasecmp(scheme.data, name, scheme.length) == 0;
}

static bool ends_with(uri_span span, const char *end) {
  size_t length = strlen(end);
  return span.length > length && memcmp(span.data + span.length - length, end, length) == 0;
}

bool uri_split(const char *url, uri_parts *out) {
  const char *colon = strstr(url, "://");
  if (colon == NULL) return false;
  *out = (uri_parts){.scheme = {url, (size_t)(colon - url)}};
  bool tls = is_scheme(out->scheme, "https");
  if (!tls && !is_scheme(out->scheme, "http")) return false;
  const char *host = colon + 3;
  const char *path = host + strcspn(host, "/?#");
  for (const char *c = host; c < path; c++) {
    if (*c == '@') host = c + 1;
  }
  out->host = (uri_span){host, (size_t)(path - host)};
  const char *own_port = tls ? ":443" : ":80";
  if (ends_with(out->host, own_port)) out->host.length -= strlen(own_port);
  if (out->host.length == 0) return false;
  const char *query = path + strcspn(path, "?#");
  out->path = (uri_span){path, (size_t)(query - path)};
  if (*query == '?') out->query = (uri_span){query + 1, strcspn(query + 1, "#")};
  return true;
}

static bool is_unreserved(unsigned char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '.' || c == '_' || c == '~';
}

bool uri_encode(bytes *out, const char *data, size_t length, bool keep_slash) {
  static const char HEX[] = "0123456789ABCDEF";
  if (length > (size_t)-1 / 4 || !bytes_reserve(out, length * 3)) return false;
  char *to = out->data + out->length;
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)data[i];
    if (is_unreserved(c) || (c == '/' && keep_slash)) {
      *to++ = (char)c;
    } else {
      *to++ = '%';
      *to++ = HEX[c >> 4];
      *to++ = HEX[c & 15];
    }
  }
  *to = '\0';
  out->length = (size_t)(to - out->data);
  return true;
}

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool uri_decode(bytes *out, const char *data, size_t length) {
  if (!bytes_reserve(out, length)) return false;
  for (size_t i = 0; i < length; i++) {
    int high = -1, low = -1;
    if (data[i] == '%' && length - i > 2) {
      high = hex_value(data[i + 1]);
      low = hex_value(data[i + 2]);
    }
    if (high >= 0 && low >= 0) {
      bytes_append_char(out, (char)(high * 16 + low));
      i += 2;
    } else {
      bytes_append_char(out, data[i]);
    }
  }
  return !out->failed;
}

bool uri_normalize_path(bytes *out, const char *path, size_t length) {
  size_t start = out->length;
  bool directory = true; /* the path so far ends in a slash */
  bytes_append_char(out, '/');
  for (size_t i = 0; i < length;) {
    while (i < length && path[i] == '/')
      i++;
    size_t begin = i;
    while (i < length && path[i] != '/')
      i++;
    size_t segment = i - begin;
    if (segment == 0) break;
    bool up = segment == 2 && memcmp(path + begin, "..", 2) == 0;
    if (up || (segment == 1 && path[begin] == '.')) {
      directory = true;
      if (!up || out->failed || out->length <= start + 1) continue;
      out->length--; /* the slash at the end, then the segment before it */
      while (out->data[out->length - 1] != '/')
        out->length--;
      out->data[out->length] = '\0';
      continue;
    }
    bytes_append(out, path + begin, segment);
    bytes_append_char(out, '/');
    directory = i < length;
  }
  if (!out->failed && !directory && out->length > start + 1) out->data[--out->length] = '\0';
  return !out->failed;
}
