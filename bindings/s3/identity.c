/* identity.c: see identity.h. */
#include "s3/identity.h"

#include <stdlib.h>
#include <string.h>

void s3_secret_free(char **text) {
  if (*text != NULL) explicit_bzero(*text, strlen(*text));
  free(*text);
  *text = NULL;
}

void s3_identity_free(s3_identity *self) {
  s3_secret_free(&self->access_key_id);
  s3_secret_free(&self->secret_access_key);
  s3_secret_free(&self->session_token);
  self->expires = 0;
}

static bool set(char **field, const char *value) {
  if (value == NULL || value[0] == '\0') return true;
  s3_secret_free(field);
  *field = strdup(value);
  return *field != NULL;
}

bool s3_identity_set(s3_identity *self, const char *id, const char *secret, const char *token) {
  return set(&self->access_key_id, id) && set(&self->secret_access_key, secret) &&
         set(&self->session_token, token);
}
