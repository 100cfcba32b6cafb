/* judge.c: see judge.h. Codes are those of the S3 API Reference, "Error responses". */
#include "s3/judge.h"

#include <ctype.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "s3/xml.h"

enum { SKEW_LEAST = 240 }; /* seconds; S3 allows 900 */

typedef struct told {
  char code[64];
  char text[256];
} told;

static void keep(char *into, size_t size, const char *text) {
  if (text == NULL) return;
  snprintf(into, size, "%s", text);
  for (char *c = into; *c != '\0'; c++) {
    if (iscntrl((unsigned char)*c)) *c = ' ';
  }
}

/* True where the body is an <Error>. */
static bool read_error(const s3_judged *request, told *out, s3_verdict *verdict) {
  xml_document *document = xml_parse(request->body, request->body_length);
  const xml_node *root = xml_root(document);
  bool found = xml_is(root, "Error");
  if (xml_is(root, "ErrorResponse")) root = xml_child(root, "Error"), found = root != NULL;
  if (found) {
    keep(out->code, sizeof out->code, xml_value(root, "Code"));
    keep(out->text, sizeof out->text, xml_value(root, "Message"));
    keep(verdict->region, sizeof verdict->region, xml_value(root, "Region"));
  }
  xml_free(document);
  return found;
}

static const char *code_of_status(int status, bool has_key) {
  switch (status) {
  case 301: return "PermanentRedirect";
  case 304: return "NotModified";
  case 307: return "TemporaryRedirect";
  case 400: return "BadRequest";
  case 403: return "Forbidden";
  case 404: return has_key ? "NotFound" : "NoSuchBucket";
  case 405: return "MethodNotAllowed";
  case 407: return "ProxyAuthenticationRequired";
  case 409: return "Conflict";
  case 411: return "MissingContentLength";
  case 412: return "PreconditionFailed";
  case 416: return "InvalidRange";
  case 429: return "TooManyRequests";
  case 500: return "InternalError";
  case 501: return "NotImplemented";
  case 503: return "ServiceUnavailable";
  default: return "UnexpectedStatus";
  }
}

static bool any(const char *code, const char *const *codes) {
  for (; *codes != NULL; codes++) {
    if (strcmp(code, *codes) == 0) return true;
  }
  return false;
}

static s3_kind kind_of(const char *code, int status, bool has_key) {
  static const char *const ABSENT[] = {"NoSuchKey",    "NotFound",     "NoSuchVersion",
                                       "NoSuchTagSet", "NoSuchUpload", NULL};
  if (status == 404 && (has_key || strcmp(code, "NoSuchBucket") != 0) && any(code, ABSENT))
    return S3_ABSENT;
  if (status == 304 || status == 409 || status == 412) return S3_CONFLICT;
  if (status == 416) return S3_INVALID;
  return S3_REFUSED;
}

static const char *remedy_of(const char *code) {
  static const struct {
    const char *code, *remedy;
  } REMEDIES[] = {
      {"NoSuchBucket",
       "there is no such bucket: create it (blobs:create_bucket()), or correct S3_BUCKET"},
      {"InvalidBucketName", "that is no bucket name this server accepts: correct S3_BUCKET"},
      {"NotFound", "there is nothing of that name, or no S3 service at that address"},
      {"InvalidAccessKeyId", "the server does not know this access key: check S3_ACCESS_KEY_ID"},
      {"SignatureDoesNotMatch",
       "the secret key is not the one of this access key: check S3_SECRET_ACCESS_KEY"},
      {"AccessDenied", "this access key may not do that: check its permissions and the bucket's "
                       "policy, and S3_ACCESS_KEY_ID"},
      {"Forbidden", "the server refused the access key: check S3_ACCESS_KEY_ID, "
                    "S3_SECRET_ACCESS_KEY and the key's permissions"},
      {"ExpiredToken", "the session token has expired: get new credentials"},
      {"InvalidToken", "the session token is not valid: check S3_SESSION_TOKEN"},
      {"RequestTimeTooSkewed", "this machine's clock is wrong: set it"},
      {"PermanentRedirect", "the bucket is in another region: check S3_REGION and S3_ENDPOINT"},
      {"TemporaryRedirect", "the bucket is at another address: check S3_ENDPOINT"},
      {"AuthorizationHeaderMalformed", "the bucket is in another region: check S3_REGION"},
      {"PreconditionFailed", "the object is not in the state that the condition names"},
      {"ConditionalRequestConflict", "another request changed the object at the same time"},
      {"NotModified", "the object is still the one that the condition names"},
      {"BucketNotEmpty", "the bucket still holds objects: delete them first"},
      {"InvalidRange", "the range lies outside of the object"},
      {"NoSuchUpload", "the multipart upload is gone: it was completed or aborted before"},
      {"SlowDown", "the server asks for fewer requests"},
      {"EntityTooLarge", "the object is larger than the server allows"},
      {"QuotaExceeded", "the storage quota is used up"},
      {"ProxyAuthenticationRequired",
       "the proxy wants a user name and a password: http://USER:PASSWORD@HOST:PORT"},
  };
  for (size_t i = 0; i < sizeof REMEDIES / sizeof REMEDIES[0]; i++) {
    if (strcmp(REMEDIES[i].code, code) == 0) return REMEDIES[i].remedy;
  }
  return "";
}

/* "get \"a/b.txt\" in bucket \"artifacts\"" */
static void describe(const s3_judged *request, char *out, size_t size) {
  const char *bucket = request->client->config.bucket;
  if (request->key == NULL) {
    snprintf(out, size, "S3 %s of bucket \"%s\"", request->what, bucket);
    return;
  }
  char key[161];
  bool cut = request->key_length > 160;
  size_t length = cut ? 157 : request->key_length;
  memcpy(key, request->key, length);
  key[length] = '\0';
  for (char *c = key; *c != '\0'; c++) {
    if (iscntrl((unsigned char)*c)) *c = '?';
  }
  snprintf(out, size, "S3 %s \"%s%s\" in bucket \"%s\"", request->what, key, cut ? "..." : "",
           bucket);
}

/* A server may quote what we sent; what identifies the caller is not passed on. */
static bool tells_secret(const s3_judged *request, const char *text) {
  const s3_identity *identity = s3_credentials_known(request->client->credentials);
  if (identity == NULL) return false;
  return strstr(text, identity->access_key_id) != NULL ||
         strstr(text, identity->secret_access_key) != NULL ||
         (identity->session_token != NULL && strstr(text, identity->session_token) != NULL);
}

static double retry_after(const http_response *response) {
  const char *text = http_headers_get(&response->headers, "retry-after");
  if (text == NULL) return 0;
  char *end;
  double seconds = strtod(text, &end);
  if (end == text) seconds = (double)(curl_getdate(text, NULL) - time(NULL)); /* an HTTP date */
  return seconds > 0 && seconds < 86400 ? seconds : 0;
}

static void judge_time(const s3_judged *request, const http_response *response, const char *code,
                       s3_verdict *out) {
  const char *text = http_headers_get(&response->headers, "date");
  time_t theirs = text == NULL ? -1 : curl_getdate(text, NULL);
  if (theirs < 0 || response->status != 403) return;
  int64_t ahead = (int64_t)theirs - request->sent_at;
  out->skewed =
      strcmp(code, "RequestTimeTooSkewed") == 0 || ahead > SKEW_LEAST || ahead < -SKEW_LEAST;
  out->skew = ahead;
}

static void judge_error(const s3_judged *request, const http_response *response, const told *error,
                        s3_verdict *out) {
  static const char *const AGAIN[] = {"SlowDown",           "RequestTimeout",  "InternalError",
                                      "ServiceUnavailable", "TooManyRequests", "Throttling",
                                      "OperationAborted",   "BadDigest",       NULL};
  static const char *const EXPIRED[] = {"ExpiredToken", "TokenRefreshRequired", NULL};
  s3_failure *failure = &out->failure;
  int status = response->status;
  const char *code =
      error->code[0] != '\0' ? error->code : code_of_status(status, request->key != NULL);
  char where[400];
  describe(request, where, sizeof where);
  const char *remedy = remedy_of(code);
  if (request->encrypts && strcmp(code, "InvalidRequest") == 0 &&
      strncmp(request->client->config.endpoint, "http:", 5) == 0)
    remedy = "many servers encrypt (sse) only what comes over TLS: use an https endpoint";
  const char *text = tells_secret(request, error->text) ? "" : error->text;
  s3_failure_set(failure, kind_of(code, status, request->key != NULL), code,
                 "%s at %s: %s (%d)%s%s%s%s", where, request->client->config.endpoint, code, status,
                 remedy[0] != '\0' ? ": " : "", remedy, text[0] != '\0' ? "; it said: " : "", text);
  failure->status = status;
  failure->retry_after = retry_after(response);
  out->untouched = status == 429 || status == 503;
  out->again =
      out->untouched || (status >= 500 && status != 501 && status != 505) || any(code, AGAIN);
  out->expired = any(code, EXPIRED);
  failure->retryable = out->again;
  judge_time(request, response, code, out);
  const char *region = http_headers_get(&response->headers, "x-amz-bucket-region");
  if (region != NULL && out->region[0] == '\0') keep(out->region, sizeof out->region, region);
  if (status != 301 && status != 307 && status != 400) out->region[0] = '\0';
}

/* What else than the endpoint may be why nobody is reached. */
static const char *on_the_way(const s3_config *config) {
  bool tls = strncmp(config->endpoint, "https:", 6) == 0;
  const char *names[] = {tls ? "https_proxy" : "http_proxy", tls ? "HTTPS_PROXY" : "http_proxy",
                         "all_proxy", "ALL_PROXY"};
  const char *proxy = config->proxy;
  for (size_t i = 0; proxy == NULL && i < sizeof names / sizeof names[0]; i++)
    proxy = getenv(names[i]);
  if (proxy == NULL || proxy[0] == '\0') return "";
  return tls ? ", the proxy (option proxy, or https_proxy)"
             : ", the proxy (option proxy, or http_proxy)";
}

static void judge_silence(const s3_judged *request, const http_response *response,
                          s3_verdict *out) {
  s3_failure *failure = &out->failure;
  const s3_config *config = &request->client->config;
  const char *endpoint = config->endpoint;
  bool is_aws = strstr(endpoint, ".amazonaws.com") != NULL;
  char where[400];
  describe(request, where, sizeof where);
  switch (response->outcome) {
  case HTTP_NOT_CONNECTED:
    s3_failure_set(failure, S3_REFUSED, "EndpointUnreachable",
                   "%s: no connection to %s: check S3_ENDPOINT%s%s, and that the server runs (%s)",
                   where, endpoint, config->path_style || is_aws ? "" : ", S3_USE_PATH_STYLE",
                   on_the_way(config), response->message);
    out->again = out->untouched = true;
    break;
  case HTTP_UNTRUSTED:
    s3_failure_set(failure, S3_REFUSED, "UntrustedCertificate",
                   "%s: the certificate of %s is not trusted: name its authority by ca_file "
                   "(AWS_CA_BUNDLE), or check S3_ENDPOINT (%s)",
                   where, endpoint, response->message);
    break;
  case HTTP_TIMED_OUT:
    s3_failure_set(failure, S3_TIMEOUT, "Timeout", "%s: %s", where, response->message);
    out->again = true;
    break;
  case HTTP_TOO_LARGE:
    s3_failure_set(failure, S3_LIMIT, NULL, "%s: %s", where, response->message);
    break;
  case HTTP_REFUSED:
    s3_failure_set(failure, S3_CONFIG, NULL,
                   "%s: %s: check S3_ENDPOINT and ca_file (AWS_CA_BUNDLE)", where,
                   response->message);
    break;
  case HTTP_CANCELLED:
    s3_failure_set(failure, S3_CLOSED, NULL, "%s: the host is closing", where);
    break;
  case HTTP_NO_MEMORY:
    s3_failure_set(failure, S3_NO_MEMORY, NULL, "%s: out of memory", where);
    break;
  case HTTP_ABORTED: s3_failure_set(failure, S3_IO, NULL, "%s: its consumer gave up", where); break;
  default:
    s3_failure_set(failure, S3_REFUSED, "ConnectionBroken", "%s: the connection broke (%s)", where,
                   response->message);
    out->again = true;
  }
  failure->status = response->status;
  failure->retryable = out->again;
}

void s3_judge(const s3_judged *request, const http_response *response, s3_verdict *out) {
  *out = (s3_verdict){0};
  if (response->outcome != HTTP_DONE) {
    judge_silence(request, response, out);
    return;
  }
  told error = {0};
  bool good = response->status / 100 == 2;
  bool is_error =
      (!good || request->check_body) && request->has_body && read_error(request, &error, out);
  if (good && !is_error) return;
  judge_error(request, response, &error, out);
  /* An error under 200 is S3's way to report a late internal failure: it may be tried again. */
  if (good) out->again = out->failure.retryable = true, out->failure.kind = S3_REFUSED;
}
