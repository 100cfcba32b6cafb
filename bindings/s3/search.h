/* search.h: looking for keys where a process of this machine may find them: variables and files. */
#ifndef NEBULA_S3_SEARCH_H
#define NEBULA_S3_SEARCH_H

#include "async/loop.h"
#include "s3/identity.h"
#include "s3/remote.h"

typedef struct s3_search s3_search;

/* One of the three is filled in. */
typedef struct s3_search_result {
  s3_identity identity; /* may be taken out */
  s3_remote_plan plan;  /* may be taken out: a service is to be asked */
  char problem[512];
} s3_search_result;

/* Looks into the environment now and into files on the thread pool, then calls done once, from the
 * loop. The search frees itself after that. NULL on a lack of memory. profile and region may be
 * NULL. */
s3_search *s3_search_start(loop *on, const char *profile, const char *region,
                           void (*done)(s3_search_result *result, void *data), void *data);

/* done is not called any more. NULL is harmless. */
void s3_search_cancel(s3_search *self);

/* What to tell where the whole chain, its last link included, has nothing. */
void s3_search_nothing(const char *profile, char *out, size_t size);

#endif
