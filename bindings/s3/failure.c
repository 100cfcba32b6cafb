/* failure.c: see failure.h. */
#include "s3/failure.h"

#include <stdarg.h>
#include <stdio.h>

void s3_failure_set(s3_failure *self, s3_kind kind, const char *code, const char *format, ...) {
  self->kind = kind;
  snprintf(self->code, sizeof self->code, "%s", code == NULL ? "" : code);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(self->message, sizeof self->message, format, arguments);
  va_end(arguments);
}
