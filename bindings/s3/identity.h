/* identity.h: keys that sign requests, for a time or for ever. */
#ifndef NEBULA_S3_IDENTITY_H
#define NEBULA_S3_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

typedef struct s3_identity {
  char *access_key_id;
  char *secret_access_key;
  char *session_token; /* NULL where there is none */
  int64_t expires;     /* seconds since 1970; 0: never */
} s3_identity;

/* Copies; NULL and "" are left out. What is set belongs to the caller, also on a lack of memory,
 * which is told by false. */
bool s3_identity_set(s3_identity *self, const char *id, const char *secret, const char *token);

/* Wipes and frees; the identity is empty then. */
void s3_identity_free(s3_identity *self);

/* Wipes and frees one text, which is NULL then. */
void s3_secret_free(char **text);

#endif
