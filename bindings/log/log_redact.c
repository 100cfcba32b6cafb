/* log_redact.c: finds secrets by the names that stand before them and by the shape of URLs. A
 * secret that neither marks cannot be found: it must not be given to a message in the first place.
 */
#include "log/log_redact.h"

#include <string.h>
#include <strings.h>

static bool contains(const char *text, size_t length, const char *word) {
  size_t size = strlen(word);
  for (size_t i = 0; i + size <= length; i++)
    if (strncasecmp(text + i, word, size) == 0) return true;
  return false;
}

static bool ends_in(const char *text, size_t length, const char *word) {
  size_t size = strlen(word);
  return length >= size && strncasecmp(text + length - size, word, size) == 0;
}

bool log_name_is_secret(const char *name, size_t length) {
  static const char *const WORDS[] = {"password",  "passwd",     "secret",        "token", "apikey",
                                      "signature", "credential", "authorization", "cookie"};
  static const char *const PUBLIC[] = {"unique_key", "primary_key", "foreign_key", "object_key",
                                       "blob_key"};
  for (size_t i = 0; i < sizeof WORDS / sizeof WORDS[0]; i++)
    if (contains(name, length, WORDS[i])) return true;
  if (!ends_in(name, length, "_key") && !ends_in(name, length, "-key")) return false;
  for (size_t i = 0; i < sizeof PUBLIC / sizeof PUBLIC[0]; i++)
    if (length == strlen(PUBLIC[i]) && strncasecmp(name, PUBLIC[i], length) == 0) return false;
  return true;
}

static bool is_name_byte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-';
}

static bool is_value_end(char c) {
  return (unsigned char)c <= ' ' || strchr("&\"'`,;)]}<>", c) != NULL;
}

/* The length of the quote at `at`, which may be escaped itself (in text within JSON); 0: none. */
static size_t quote_length(const char *at, const char *end) {
  size_t escape = at < end && *at == '\\';
  bool quote = at + escape < end && (at[escape] == '"' || at[escape] == '\'');
  return quote ? escape + 1 : 0;
}

/* Behind the quoted text at `at`, whose quote has `size` bytes. */
static const char *quoted_end(const char *at, const char *end, size_t size) {
  const char *quote = at;
  at += size;
  while (at < end && !((size_t)(end - at) >= size && memcmp(at, quote, size) == 0))
    at += *at == '\\' && at + 1 < end ? 2 : 1;
  return at < end ? at + size : end;
}

/* The end of the secret value at `at`: up to a separator; quoted text whole, with what is joined to
 * it (where CSV or SQL doubles the quotes, `""text""` and `"te""xt"`). */
static const char *value_end(const char *at, const char *end, bool to_line_end) {
  if (to_line_end) {
    while (at < end && *at != '\n' && *at != '\r' && *at != '"')
      at++;
    return at;
  }
  const char *quote = at;
  size_t size = quote_length(at, end);
  while (at < end) {
    if (size > 0 && (size_t)(end - at) >= size && memcmp(at, quote, size) == 0)
      at = quoted_end(at, end, size);
    else if (!is_value_end(*at))
      at++;
    else
      break;
  }
  return at;
}

/* A secret after the name [name, at): sets where it begins and ends. '=' always introduces one; a
 * colon after a quoted name (JSON) or after "Authorization". */
static bool secret_after(const char *name, const char *at, const char *end, const char **begin,
                         const char **behind) {
  size_t length = (size_t)(at - name);
  if (length == 0 || !log_name_is_secret(name, length)) return false;
  bool quoted = at < end && (*at == '"' || *at == '\'');
  at += quoted;
  bool header = !quoted && ends_in(name, length, "authorization");
  if (at == end || !(*at == '=' || (*at == ':' && (quoted || header)))) return false;
  header = header && *at == ':';
  at++;
  while (at < end && (*at == ' ' || *at == '\t'))
    at++;
  *begin = at;
  *behind = value_end(at, end, header);
  return *behind > *begin;
}

/* The password of the authority at `at` ("user:password@host"). */
static bool secret_in_authority(const char *at, const char *end, const char **begin,
                                const char **behind) {
  const char *colon = NULL, *last_at = NULL;
  for (; at < end && !is_value_end(*at) && *at != '/' && *at != '?' && *at != '#'; at++) {
    if (*at == ':' && colon == NULL) colon = at;
    if (*at == '@') last_at = at;
  }
  if (colon == NULL || last_at == NULL || last_at < colon) return false;
  *begin = colon + 1;
  *behind = last_at;
  return true;
}

bool log_append_redacted(json_buffer *out, const char *text, size_t length) {
  const char *end = text + length, *copied = text, *at = text;
  while (at < end) {
    const char *begin, *behind;
    bool found;
    const char *next;
    if (is_name_byte(*at)) {
      const char *name = at;
      while (at < end && is_name_byte(*at))
        at++;
      found = secret_after(name, at, end, &begin, &behind);
      next = at;
    } else {
      found = end - at >= 3 && memcmp(at, "://", 3) == 0 &&
              secret_in_authority(at + 3, end, &begin, &behind);
      next = at + 1;
    }
    if (found) {
      if (!json_buffer_append(out, copied, (size_t)(begin - copied)) ||
          !json_buffer_append(out, LOG_REDACTED, strlen(LOG_REDACTED)))
        return false;
      copied = next = behind;
    }
    at = next;
  }
  return json_buffer_append(out, copied, (size_t)(end - copied));
}
