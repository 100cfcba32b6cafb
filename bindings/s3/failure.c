/* failure.c: see failure.h. */
#include "s3/failure.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void s3_failure_set(s3_failure *self, s3_kind kind, const char *code, const char *format, ...) {
  self->kind = kind;
  snprintf(self->code, sizeof self->code, "%s", code == NULL ? "" : code);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(self->message, sizeof self->message, format, arguments);
  va_end(arguments);
}

void s3_failure_set_damage(s3_failure *self, const char *what, const char *key, const char *other) {
  bool etag = strcmp(other, "ETag") == 0;
  s3_failure_set(
      self, S3_REFUSED, "BadDigest",
      "S3 %s \"%.100s\": the bytes are not those of the %s: damaged on the way or in the "
      "store%s",
      what, key, other, etag ? " (trust_etag turns this check off where ETags are no MD5)" : "");
  self->retryable = true;
}

void s3_failure_set_unmet(s3_failure *self, const char *what, const char *key, const char *bucket) {
  s3_failure_set(self, S3_CONFLICT, "PreconditionFailed",
                 "S3 %s \"%.100s\" in bucket \"%s\": the object is not in the state that the "
                 "condition names",
                 what, key, bucket);
}
