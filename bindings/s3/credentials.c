/* credentials.c: see credentials.h. A search runs on the thread pool with copies of its own, so
 * that the provider may be freed while it runs. */
#include "s3/credentials.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "s3/profile.h"

typedef struct search {
  uv_work_t work;
  s3_credentials *owner; /* NULL once the provider is gone */
  char *paths[2];        /* the credentials file, then the configuration file */
  char *profile;
  s3_identity found;
  profile_status status;
} search;

struct s3_credentials {
  loop *on;
  s3_identity identity;
  bool known, given;
  char *profile;
  search *running;
  s3_credentials_wait *waiting;
  char problem[512];
};

static void wipe(char **text) {
  if (*text != NULL) explicit_bzero(*text, strlen(*text));
  free(*text);
  *text = NULL;
}

static void identity_free(s3_identity *self) {
  wipe(&self->access_key_id);
  wipe(&self->secret_access_key);
  wipe(&self->session_token);
}

static bool set(char **field, const char *value) {
  if (value == NULL || value[0] == '\0') return true;
  *field = strdup(value);
  return *field != NULL;
}

static bool identity_set(s3_identity *self, const char *id, const char *secret, const char *token) {
  return set(&self->access_key_id, id) && set(&self->secret_access_key, secret) &&
         set(&self->session_token, token);
}

s3_credentials *s3_credentials_new(loop *on, const char *access_key_id,
                                   const char *secret_access_key, const char *session_token,
                                   const char *profile) {
  s3_credentials *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->on = on;
  if (!set(&self->profile, profile) ||
      !identity_set(&self->identity, access_key_id, secret_access_key, session_token)) {
    s3_credentials_free(self);
    return NULL;
  }
  self->given = self->known = access_key_id != NULL && secret_access_key != NULL;
  return self;
}

static void search_free(search *self) {
  identity_free(&self->found);
  free(self->paths[0]);
  free(self->paths[1]);
  free(self->profile);
  free(self);
}

static void search_run(uv_work_t *work) {
  search *self = work->data;
  self->status = PROFILE_ABSENT;
  for (int i = 0; i < 2 && self->status == PROFILE_ABSENT; i++) {
    identity_free(&self->found);
    if (self->paths[i] != NULL)
      self->status = profile_read(self->paths[i], self->profile, &self->found);
  }
}

/* One after the other, for a callback may take others out; until one starts a new search. */
static void tell_all(s3_credentials *self) {
  while (self->waiting != NULL && self->running == NULL) {
    s3_credentials_wait *wait = self->waiting;
    self->waiting = wait->next;
    wait->queued = false;
    wait->ready(wait->data);
  }
}

static void search_done(uv_work_t *work, int status) {
  search *self = work->data;
  s3_credentials *owner = self->owner;
  if (owner != NULL) {
    owner->running = NULL;
    if (status == 0 && self->status == PROFILE_FOUND) {
      owner->identity = self->found;
      owner->known = true;
      self->found = (s3_identity){0};
    } else if (self->status == PROFILE_UNREADABLE) {
      snprintf(owner->problem, sizeof owner->problem,
               "the credentials file %s or %s cannot be read: check its permissions",
               self->paths[0], self->paths[1]);
    } else {
      snprintf(owner->problem, sizeof owner->problem,
               "no S3 credentials: set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY, or the AWS_ "
               "variables of the same names, or write profile \"%.60s\" into %.120s",
               self->profile, self->paths[0] == NULL ? "~/.aws/credentials" : self->paths[0]);
    }
  }
  search_free(self);
  if (owner != NULL) tell_all(owner);
}

/* The file a variable names, or ~/.aws/<name>; NULL where there is no home. */
static char *file_path(const char *variable, const char *name) {
  const char *named = getenv(variable), *home = getenv("HOME");
  if (named != NULL && named[0] != '\0') return strdup(named);
  if (home == NULL) return NULL;
  size_t size = strlen(home) + strlen(name) + sizeof "/.aws/";
  char *path = malloc(size);
  if (path != NULL) snprintf(path, size, "%s/.aws/%s", home, name);
  return path;
}

static bool search_start(s3_credentials *self) {
  search *new = calloc(1, sizeof *new);
  if (new == NULL) return false;
  const char *profile = self->profile != NULL ? self->profile : getenv("AWS_PROFILE");
  new->profile = strdup(profile == NULL || profile[0] == '\0' ? "default" : profile);
  new->paths[0] = file_path("AWS_SHARED_CREDENTIALS_FILE", "credentials");
  new->paths[1] = file_path("AWS_CONFIG_FILE", "config");
  new->work.data = new;
  new->owner = self;
  if (new->profile == NULL ||
      uv_queue_work(&self->on->uv, &new->work, search_run, search_done) != 0) {
    search_free(new);
    return false;
  }
  self->running = new;
  return true;
}

/* A profile that was asked for by name comes before the variables, as with the AWS tools. */
static bool take_environment(s3_credentials *self) {
  if (self->profile != NULL) return false;
  const char *id = getenv("AWS_ACCESS_KEY_ID"), *secret = getenv("AWS_SECRET_ACCESS_KEY");
  if (id == NULL || secret == NULL || id[0] == '\0' || secret[0] == '\0') return false;
  self->known = identity_set(&self->identity, id, secret, getenv("AWS_SESSION_TOKEN"));
  return self->known;
}

const s3_identity *s3_credentials_get(s3_credentials *self, s3_credentials_wait *wait) {
  if (self->known || (self->running == NULL && self->problem[0] == '\0' && take_environment(self)))
    return &self->identity;
  if (self->problem[0] != '\0') return NULL;
  if (self->running == NULL && !search_start(self)) {
    snprintf(self->problem, sizeof self->problem, "out of memory while looking for credentials");
    return NULL;
  }
  if (!wait->queued) {
    wait->queued = true;
    wait->next = self->waiting;
    self->waiting = wait;
  }
  return NULL;
}

const s3_identity *s3_credentials_known(const s3_credentials *self) {
  return self->known ? &self->identity : NULL;
}

const char *s3_credentials_problem(const s3_credentials *self) {
  return self->problem[0] == '\0' ? NULL : self->problem;
}

bool s3_credentials_expire(s3_credentials *self) {
  if (self->given) return false;
  identity_free(&self->identity);
  self->known = false;
  self->problem[0] = '\0';
  return true;
}

void s3_credentials_leave(s3_credentials *self, s3_credentials_wait *wait) {
  s3_credentials_wait **at = &self->waiting;
  while (*at != NULL && *at != wait)
    at = &(*at)->next;
  if (*at != NULL) *at = wait->next;
  wait->queued = false;
}

void s3_credentials_free(s3_credentials *self) {
  if (self == NULL) return;
  if (self->running != NULL) self->running->owner = NULL;
  identity_free(&self->identity);
  free(self->profile);
  free(self);
}
