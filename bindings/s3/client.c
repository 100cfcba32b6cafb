/* client.c: see client.h. */
#include "s3/client.h"

#include <ctype.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/bytes.h"
#include "http/uri.h"

enum { KEY_BYTES_MOST = 1024 };

static const char *copy(const char *text, bool *well) {
  if (text == NULL) return NULL;
  char *out = strdup(text);
  if (out == NULL) *well = false;
  return out;
}

static const char *default_endpoint(const char *region, bool *well) {
  bytes text = {0};
  bytes_format(&text, "https://s3.%s.amazonaws.com", region);
  char *out = bytes_detach(&text);
  if (out == NULL) *well = false;
  return out;
}

s3_client *s3_client_new(http_client *http, const s3_config *config) {
  s3_client *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  bool well = true;
  self->http = http;
  self->on = http_client_loop(http);
  self->references = 1;
  self->config = *config;
  s3_config *own = &self->config;
  const char *region = config->region == NULL ? "us-east-1" : config->region;
  own->region = copy(region, &well);
  own->bucket = copy(config->bucket, &well);
  own->endpoint =
      config->endpoint == NULL ? default_endpoint(region, &well) : copy(config->endpoint, &well);
  own->proxy = copy(config->proxy, &well);
  own->ca_file = copy(config->ca_file, &well);
  own->access_key_id = own->secret_access_key = own->session_token = own->profile = NULL;
  s3_credentials_options identity = {.access_key_id = config->access_key_id,
                                     .secret_access_key = config->secret_access_key,
                                     .session_token = config->session_token,
                                     .profile = config->profile,
                                     .region = region,
                                     .proxy = config->proxy,
                                     .ca_file = config->ca_file};
  self->credentials = s3_credentials_new(http, &identity);
  if (!well || self->credentials == NULL) {
    s3_client_release(self);
    return NULL;
  }
  char *end = (char *)own->endpoint + strlen(own->endpoint);
  while (end > own->endpoint && end[-1] == '/')
    *--end = '\0';
  retry_quota_init(&self->quota);
  return self;
}

s3_client *s3_client_hold(s3_client *self) {
  self->references++;
  return self;
}

void s3_client_release(s3_client *self) {
  if (self == NULL || --self->references > 0) return;
  s3_credentials_free(self->credentials);
  OPENSSL_cleanse(&self->key, sizeof self->key);
  free((char *)self->config.region);
  free((char *)self->config.bucket);
  free((char *)self->config.endpoint);
  free((char *)self->config.proxy);
  free((char *)self->config.ca_file);
  free(self);
}

/* "https://s3.eu-west-1.amazonaws.com" with another label in place of `from`, or as it is. */
static char *renamed(const char *endpoint, const char *from, const char *to) {
  bytes out = {0};
  const char *host = strstr(endpoint, "://") + 3;
  const char *end = host + strcspn(host, "/:");
  size_t length = strlen(from);
  for (const char *at = host; (at = strstr(at, from)) != NULL && at + length < end; at++) {
    if (at == host || at[-1] != '.' || at[length] != '.') continue;
    bytes_append(&out, endpoint, (size_t)(at - endpoint));
    bytes_append_text(&out, to);
    endpoint = at + length;
    break;
  }
  bytes_append_text(&out, endpoint);
  return bytes_detach(&out);
}

bool s3_client_set_region(s3_client *self, const char *region, bool elsewhere) {
  const char *now = self->config.endpoint;
  bool moves = elsewhere || strstr(now, ".amazonaws.com") != NULL;
  char *own = strdup(region);
  char *endpoint = moves ? renamed(now, self->config.region, region) : strdup(now);
  if (own == NULL || endpoint == NULL) {
    free(own);
    free(endpoint);
    return false;
  }
  free((char *)self->config.region);
  free((char *)self->config.endpoint);
  self->config.region = own;
  self->config.endpoint = endpoint;
  self->region_changes++;
  return true;
}

/* Bucket names: 3 to 63 of lower case, digits, dots and hyphens, a letter or digit at both ends.
 * Old buckets have capitals and underscores too, which path style can address. */
static bool is_bucket(const char *name, bool path_style) {
  size_t length = strlen(name);
  if (length < 3 || length > (path_style ? 255 : 63)) return false;
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)name[i];
    bool plain = islower(c) || isdigit(c), edge = i == 0 || i == length - 1;
    bool inner = c == '-' || (c == '.' && !(i > 0 && name[i - 1] == '.'));
    bool old = path_style && (isupper(c) || c == '_');
    if (!(plain || old || (inner && !edge))) return false;
  }
  return true;
}

const char *s3_config_problem(const s3_config *config, char *buffer, size_t size) {
  if (config->bucket == NULL || config->bucket[0] == '\0')
    return "bucket is missing: name the bucket (S3_BUCKET)";
  if (!is_bucket(config->bucket, config->path_style)) {
    snprintf(buffer, size,
             "bucket \"%.80s\" is no bucket name: 3 to 63 lower-case letters, digits, dots and "
             "hyphens, with a letter or digit at both ends",
             config->bucket);
    return buffer;
  }
  uri_parts parts;
  if (config->endpoint != NULL &&
      (!uri_split(config->endpoint, &parts) || parts.query.length > 0)) {
    snprintf(buffer, size, "endpoint is no URL of the form https://host[:port]: check S3_ENDPOINT");
    return buffer;
  }
  if (config->endpoint != NULL && strchr(config->endpoint, '@') != NULL)
    return "endpoint holds a user name: give access_key_id and secret_access_key instead";
  if ((config->access_key_id == NULL) != (config->secret_access_key == NULL))
    return "access_key_id and secret_access_key go together: one of them is missing";
  return NULL;
}

const char *s3_key_problem(const char *key, size_t length) {
  if (length == 0) return "the key is empty: S3 wants 1 to 1,024 bytes";
  if (length > KEY_BYTES_MOST) return "the key is longer than the 1,024 bytes that S3 allows";
  if (memchr(key, '\0', length) != NULL) return "the key holds a NUL byte, which S3 cannot store";
  return NULL;
}
