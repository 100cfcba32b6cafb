/* credentials.c: see credentials.h. */
#include "s3/credentials.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "s3/remote.h"
#include "s3/search.h"

enum {
  RENEW_SECONDS = 300, /* before the end: requests use what there is meanwhile */
  SPARE_SECONDS = 10,  /* a request must arrive before the end */
  LEAST_SECONDS = 60,  /* fresh keys are used so long, whatever this machine's clock says */
  PAUSE_SECONDS = 30,  /* after a renewal that failed, or brought what has expired */
};

#define PROBLEM_NANOSECONDS 1000000000u /* so long a problem is told without a new search */

struct s3_credentials {
  http_client *http;
  s3_identity identity;
  bool known, given;
  unsigned generation;
  char *profile, *region, *proxy, *ca_file;
  s3_search *searching;
  s3_remote *asking;
  int64_t renew_at, end; /* of the identity, seconds since 1970; 0: never */
  s3_credentials_wait *waiting;
  uint64_t failed_at; /* uv_hrtime of the problem */
  char problem[512];
};

static bool keep(char **field, const char *value) {
  if (value == NULL) return true;
  *field = strdup(value);
  return *field != NULL;
}

s3_credentials *s3_credentials_new(http_client *http, const s3_credentials_options *options) {
  s3_credentials *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->http = http;
  if (!keep(&self->profile, options->profile) || !keep(&self->region, options->region) ||
      !keep(&self->proxy, options->proxy) || !keep(&self->ca_file, options->ca_file) ||
      !s3_identity_set(&self->identity, options->access_key_id, options->secret_access_key,
                       options->session_token)) {
    s3_credentials_free(self);
    return NULL;
  }
  self->given = self->known = options->access_key_id != NULL && options->secret_access_key != NULL;
  return self;
}

/* One after the other, for a callback may take others out; until one starts a new search. */
static void tell_all(s3_credentials *self) {
  while (self->waiting != NULL && self->searching == NULL && self->asking == NULL) {
    s3_credentials_wait *wait = self->waiting;
    self->waiting = wait->next;
    wait->queued = false;
    wait->ready(wait->data);
  }
}

/* Half of a short life is left when it is renewed. */
static void plan_renewal(s3_credentials *self, int64_t now) {
  int64_t expires = self->identity.expires, before = (expires - now) / 2;
  self->renew_at = self->end = 0;
  if (expires == 0) return;
  if (before > RENEW_SECONDS) before = RENEW_SECONDS;
  self->renew_at = before > 0 ? expires - before : now + PAUSE_SECONDS;
  self->end = expires - SPARE_SECONDS;
  if (self->end < now + LEAST_SECONDS) self->end = now + LEAST_SECONDS;
}

static void take(s3_credentials *self, s3_identity *found) {
  s3_identity_free(&self->identity);
  self->identity = *found;
  *found = (s3_identity){0};
  self->known = true;
  plan_renewal(self, (int64_t)time(NULL));
  self->generation++;
  self->problem[0] = '\0';
}

/* What is good still stays in use. */
static void give_up(s3_credentials *self, const char *problem) {
  snprintf(self->problem, sizeof self->problem, "%s", problem);
  self->failed_at = uv_hrtime();
  if (self->known) self->renew_at = (int64_t)time(NULL) + PAUSE_SECONDS;
}

static void on_answer(s3_remote_answer *answer, void *data) {
  s3_credentials *self = data;
  if (answer->found) {
    take(self, &answer->identity);
  } else {
    give_up(self, answer->problem);
  }
  s3_remote_free(self->asking);
  self->asking = NULL;
  tell_all(self);
}

/* Of the last link of the chain, that it has no keys means only that there are none. */
static void on_instance(s3_remote_answer *answer, void *data) {
  const s3_credentials *self = data;
  if (!answer->found) {
    char nothing[sizeof answer->problem];
    s3_search_nothing(self->profile, nothing, sizeof nothing);
    size_t length = strlen(nothing), room = sizeof nothing - length;
    snprintf(nothing + length, room, " (%.200s)", answer->problem);
    memcpy(answer->problem, nothing, sizeof nothing);
  }
  on_answer(answer, data);
}

static void on_search(s3_search_result *result, void *data) {
  s3_credentials *self = data;
  self->searching = NULL;
  if (result->identity.access_key_id != NULL) {
    take(self, &result->identity);
  } else if (result->plan.kind == S3_REMOTE_NONE) {
    give_up(self, result->problem);
  } else {
    bool instance = result->plan.kind == S3_REMOTE_INSTANCE;
    self->asking = s3_remote_start(self->http, &result->plan, self->proxy, self->ca_file,
                                   instance ? on_instance : on_answer, self);
    if (self->asking == NULL) give_up(self, "out of memory while asking for credentials");
  }
  tell_all(self);
}

static bool search_start(s3_credentials *self) {
  self->problem[0] = '\0';
  self->searching =
      s3_search_start(http_client_loop(self->http), self->profile, self->region, on_search, self);
  if (self->searching == NULL) give_up(self, "out of memory while looking for credentials");
  return self->searching != NULL;
}

/* A profile that was asked for by name comes before the variables, as with the AWS tools. */
static bool take_environment(s3_credentials *self) {
  if (self->profile != NULL) return false;
  const char *id = getenv("AWS_ACCESS_KEY_ID"), *secret = getenv("AWS_SECRET_ACCESS_KEY");
  if (id == NULL || secret == NULL || id[0] == '\0' || secret[0] == '\0') return false;
  s3_identity found = {0};
  if (s3_identity_set(&found, id, secret, getenv("AWS_SESSION_TOKEN"))) take(self, &found);
  s3_identity_free(&found);
  return self->known;
}

/* Keys near their end are renewed behind the back of the requests; those past it are forgotten. */
static void watch_expiry(s3_credentials *self) {
  if (!self->known || self->end == 0) return;
  int64_t now = (int64_t)time(NULL);
  if (now >= self->end) self->known = false;
  if (self->known && now >= self->renew_at && self->searching == NULL && self->asking == NULL)
    search_start(self);
}

const s3_identity *s3_credentials_get(s3_credentials *self, s3_credentials_wait *wait) {
  watch_expiry(self);
  if (self->known) return &self->identity;
  bool busy = self->searching != NULL || self->asking != NULL;
  if (!busy && self->problem[0] != '\0') {
    if (uv_hrtime() - self->failed_at < PROBLEM_NANOSECONDS) return NULL;
    self->problem[0] = '\0';
  }
  if (!busy && take_environment(self)) return &self->identity;
  if (!busy && !search_start(self)) return NULL;
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

unsigned s3_credentials_generation(const s3_credentials *self) {
  return self->generation;
}

const char *s3_credentials_problem(const s3_credentials *self) {
  return self->problem[0] == '\0' ? NULL : self->problem;
}

bool s3_credentials_expire(s3_credentials *self, unsigned generation) {
  if (self->given) return false;
  if (generation != self->generation) return true; /* renewed meanwhile */
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
  s3_search_cancel(self->searching);
  s3_remote_free(self->asking);
  s3_identity_free(&self->identity);
  free(self->profile);
  free(self->region);
  free(self->proxy);
  free(self->ca_file);
  free(self);
}
