/* profile.h: the files that AWS tools keep keys in (~/.aws/credentials, ~/.aws/config). */
#ifndef NEBULA_S3_PROFILE_H
#define NEBULA_S3_PROFILE_H

#include "s3/identity.h"

typedef enum profile_status {
  PROFILE_FOUND,
  PROFILE_ABSENT, /* no such file, or the profile has no keys in it */
  PROFILE_UNREADABLE,
  PROFILE_NO_MEMORY,
} profile_status;

/* Keys; or, without a secret key, a web identity: its role and the file of its token. */
typedef struct profile_entry {
  s3_identity keys;
  char *role, *token_file, *session; /* the session's name may be NULL */
} profile_entry;

void profile_entry_free(profile_entry *self);

/* Reads the profile out of a file of [sections] and name = value lines; a section may be called
 * "name" or "profile name". Blocks: for the thread pool. What it puts into *out belongs to the
 * caller, also where it fails. */
profile_status profile_read(const char *path, const char *profile, profile_entry *out);

#endif
