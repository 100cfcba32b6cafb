/* profile.h: the files that AWS tools keep keys in (~/.aws/credentials, ~/.aws/config). */
#ifndef NEBULA_S3_PROFILE_H
#define NEBULA_S3_PROFILE_H

#include "s3/credentials.h"

typedef enum profile_status {
  PROFILE_FOUND,
  PROFILE_ABSENT, /* no such file, or the profile has no keys in it */
  PROFILE_UNREADABLE,
  PROFILE_NO_MEMORY,
} profile_status;

/* Reads the profile's keys out of a file of [sections] and name = value lines; a section may be
 * called "name" or "profile name". Blocks: for the thread pool. What it puts into *out belongs to
 * the caller, also where it fails. */
profile_status profile_read(const char *path, const char *profile, s3_identity *out);

#endif
