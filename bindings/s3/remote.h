/* remote.h: keys for a while, asked of a service: STS for the token of a web identity
 * (AssumeRoleWithWebIdentity, API version 2011-06-15), a container's endpoint, or a machine's
 * metadata service (IMDSv2: a session token first, so that a forwarded request gets nothing). */
#ifndef NEBULA_S3_REMOTE_H
#define NEBULA_S3_REMOTE_H

#include "http/client.h"
#include "s3/identity.h"

typedef enum s3_remote_kind {
  S3_REMOTE_NONE,
  S3_REMOTE_WEB_IDENTITY,
  S3_REMOTE_CONTAINER,
  S3_REMOTE_INSTANCE,
} s3_remote_kind;

/* Whom to ask, with what. Freed by s3_remote_plan_free. */
typedef struct s3_remote_plan {
  s3_remote_kind kind;
  char *url;   /* of STS, of the container's keys; of the metadata service without a path */
  char *token; /* the web identity's; what a container sends as Authorization, or NULL */
  char *role, *session; /* of a web identity */
} s3_remote_plan;

void s3_remote_plan_free(s3_remote_plan *self);

typedef struct s3_remote s3_remote;

typedef struct s3_remote_answer {
  s3_identity identity; /* may be taken out */
  bool found;
  char problem[512]; /* where nothing was found; no secret is in it */
} s3_remote_answer;

/* Takes over what the plan holds. `proxy` and `ca_file` are for STS alone and stay valid until the
 * end. Calls done once, from the loop, after which the owner frees the remote. NULL on a lack of
 * memory, when the plan is the caller's still. */
s3_remote *s3_remote_start(http_client *http, s3_remote_plan *plan, const char *proxy,
                           const char *ca_file, void (*done)(s3_remote_answer *answer, void *data),
                           void *data);

/* NULL is harmless; before the end it cancels. */
void s3_remote_free(s3_remote *self);

#endif
