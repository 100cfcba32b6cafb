/* uri.h: taking URLs apart and percent-encoding (RFC 3986), as request signing needs it: exact,
 * byte for byte, with nothing normalised that nobody asked for. */
#ifndef NEBULA_HTTP_URI_H
#define NEBULA_HTTP_URI_H

#include <stdbool.h>
#include <stddef.h>
#include "base/bytes.h"

typedef struct uri_span {
  const char *data;
  size_t length;
} uri_span;

/* Spans into the text that was split. The query has no '?'; a fragment is left out. */
typedef struct uri_parts {
  uri_span scheme;
  uri_span host; /* without user and password, with a port that is not the scheme's own */
  uri_span path; /* "/" at least in meaning: empty where the URL has none */
  uri_span query;
} uri_parts;

/* Returns false where the text is no http or https URL. */
bool uri_split(const char *url, uri_parts *out);

/* Appends the bytes with everything but A-Z a-z 0-9 - . _ ~ (and '/', where asked) as %XX. */
bool uri_encode(bytes *out, const char *data, size_t length, bool keep_slash);

/* Appends the bytes with each %XX resolved; a '%' without two hex digits stays. '+' is a '+'. */
bool uri_decode(bytes *out, const char *data, size_t length);

/* Appends the path with "." and ".." segments and repeated slashes resolved (RFC 3986, 5.2.4). */
bool uri_normalize_path(bytes *out, const char *path, size_t length);

#endif
