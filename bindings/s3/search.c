/* search.c: see search.h. The names of variables are those of the AWS SDKs and tools reference,
 * "Standardized credential providers". The environment is read on the loop's thread; the pool works
 * with copies, so that whoever asked may go away meanwhile. */
#include "s3/search.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/bytes.h"
#include "http/uri.h"
#include "s3/profile.h"

enum { TOKEN_BYTES_MOST = 64 * 1024 };

struct s3_search {
  uv_work_t work;
  void (*done)(s3_search_result *result, void *data); /* NULL once cancelled */
  void *data;
  char *paths[2]; /* the credentials file, then the configuration file */
  char *profile, *region;
  bool named;         /* the profile was asked for: variables come after it */
  char *web_file;     /* of a web identity's token */
  s3_remote_plan web; /* its role and session */
  char *container_url, *container_token, *container_file;
  char *instance_url; /* NULL: switched off */
  char *sts_url;
  bool failed;
  s3_search_result result;
};

static const char *variable(const char *name) {
  const char *value = getenv(name);
  return value == NULL || value[0] == '\0' ? NULL : value;
}

static void keep(s3_search *self, char **field, const char *value) {
  free(*field);
  *field = value == NULL ? NULL : strdup(value);
  self->failed |= value != NULL && *field == NULL;
}

/* ---- on the thread pool ---- */

/* The first line of a small file. NULL and a problem where it cannot be had. */
static char *read_token(s3_search *self, const char *what, const char *path) {
  char *text = calloc(1, TOKEN_BYTES_MOST + 1);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t count = file < 0 || text == NULL ? -1 : read(file, text, TOKEN_BYTES_MOST);
  int error = errno;
  if (file >= 0) close(file);
  if (count > 0) text[strcspn(text, "\r\n")] = '\0';
  if (count > 0 && text[0] != '\0') return text;
  free(text);
  snprintf(self->result.problem, sizeof self->result.problem, "%s %.200s cannot be read: %s", what,
           path, count < 0 ? strerror(error) : "it is empty");
  return NULL;
}

static bool plan_web_identity(s3_search *self, const char *file) {
  s3_remote_plan *plan = &self->result.plan;
  char *token = read_token(self, "the web identity's token file", file);
  if (token == NULL) return true; /* there is a problem to tell */
  *plan = self->web;
  self->web = (s3_remote_plan){0};
  plan->kind = S3_REMOTE_WEB_IDENTITY;
  plan->token = token;
  plan->url = strdup(self->sts_url);
  if (plan->session == NULL) plan->session = strdup("nebula");
  self->failed |= plan->url == NULL || plan->session == NULL || plan->role == NULL;
  return true;
}

/* True where the search is over: keys, somebody to ask, or a problem. */
static bool try_profile(s3_search *self) {
  for (int i = 0; i < 2; i++) {
    profile_entry entry = {0};
    profile_status status = self->paths[i] == NULL
                                ? PROFILE_ABSENT
                                : profile_read(self->paths[i], self->profile, &entry);
    bool over = true;
    if (status == PROFILE_FOUND && entry.keys.secret_access_key != NULL) {
      self->result.identity = entry.keys;
      entry.keys = (s3_identity){0};
    } else if (status == PROFILE_FOUND) {
      keep(self, &self->web.role, entry.role);
      keep(self, &self->web.session, entry.session);
      plan_web_identity(self, entry.token_file);
    } else if (status == PROFILE_UNREADABLE) {
      snprintf(self->result.problem, sizeof self->result.problem,
               "the credentials file %.300s cannot be read: check its permissions", self->paths[i]);
    } else {
      self->failed |= status == PROFILE_NO_MEMORY;
      over = self->failed;
    }
    profile_entry_free(&entry);
    if (over) return true;
  }
  return false;
}

/* Keys must not travel in the clear but over this machine's own addresses. */
static bool is_local(const char *url) {
  static const char *const HOSTS[] = {"127.",          "localhost",      "[::1]",
                                      "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"};
  uri_parts parts;
  if (!uri_split(url, &parts)) return false;
  if (strncmp(url, "https:", 6) == 0) return true;
  for (size_t i = 0; i < sizeof HOSTS / sizeof HOSTS[0]; i++) {
    size_t length = strlen(HOSTS[i]);
    if (parts.host.length < length || strncmp(parts.host.data, HOSTS[i], length) != 0) continue;
    if (i == 0 || parts.host.length == length || parts.host.data[length] == ':') return true;
  }
  return false;
}

static void plan_container(s3_search *self) {
  s3_remote_plan *plan = &self->result.plan;
  if (!is_local(self->container_url)) {
    snprintf(self->result.problem, sizeof self->result.problem,
             "AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, or http on this machine");
    return;
  }
  if (self->container_file != NULL) {
    free(self->container_token);
    self->container_token =
        read_token(self, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", self->container_file);
    if (self->container_token == NULL) return;
  }
  *plan = (s3_remote_plan){
      .kind = S3_REMOTE_CONTAINER, .url = self->container_url, .token = self->container_token};
  self->container_url = self->container_token = NULL;
}

static void search_run(uv_work_t *work) {
  s3_search *self = work->data;
  if (self->named && try_profile(self)) return;
  if (self->web_file != NULL && self->web.role == NULL && !self->named) {
    snprintf(self->result.problem, sizeof self->result.problem,
             "AWS_WEB_IDENTITY_TOKEN_FILE is set, but AWS_ROLE_ARN is not: name the role");
    return;
  }
  if (self->web_file != NULL && !self->named) {
    plan_web_identity(self, self->web_file);
    return;
  }
  if (!self->named && try_profile(self)) return;
  if (self->named) return; /* what was asked for is not there: nothing else will do */
  if (self->container_url != NULL) {
    plan_container(self);
  } else if (self->instance_url != NULL) {
    self->result.plan = (s3_remote_plan){.kind = S3_REMOTE_INSTANCE, .url = self->instance_url};
    self->instance_url = NULL;
  }
}

/* ---- on the loop ---- */

static void search_free(s3_search *self) {
  s3_identity_free(&self->result.identity);
  s3_remote_plan_free(&self->result.plan);
  s3_remote_plan_free(&self->web);
  free(self->paths[0]);
  free(self->paths[1]);
  free(self->profile);
  free(self->region);
  free(self->web_file);
  free(self->container_url);
  s3_secret_free(&self->container_token);
  free(self->container_file);
  free(self->instance_url);
  free(self->sts_url);
  free(self);
}

void s3_search_nothing(const char *profile, char *out, size_t size) {
  const char *file = variable("AWS_SHARED_CREDENTIALS_FILE");
  if (profile == NULL) profile = variable("AWS_PROFILE");
  snprintf(out, size,
           "no S3 credentials: set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY, or the AWS_ "
           "variables of the same names, or write profile \"%.60s\" with aws_access_key_id and "
           "aws_secret_access_key into %.120s",
           profile == NULL ? "default" : profile, file == NULL ? "~/.aws/credentials" : file);
}

static void search_done(uv_work_t *work, int status) {
  s3_search *self = work->data;
  s3_search_result *result = &self->result;
  bool found = result->identity.access_key_id != NULL || result->plan.kind != S3_REMOTE_NONE;
  if (status != 0 || self->failed) {
    snprintf(result->problem, sizeof result->problem,
             "out of memory while looking for credentials");
  } else if (!found && result->problem[0] == '\0') {
    s3_search_nothing(self->profile, result->problem, sizeof result->problem);
  }
  if (self->done != NULL) self->done(result, self->data);
  search_free(self);
}

/* The file a variable names, or ~/.aws/<name>; NULL where there is no home. */
static void keep_path(s3_search *self, char **field, const char *name, const char *file) {
  const char *named = variable(name), *home = variable("HOME");
  keep(self, field, named);
  if (named != NULL || home == NULL) return;
  bytes path = {0};
  bytes_format(&path, "%s/.aws/%s", home, file);
  *field = bytes_detach(&path);
  self->failed |= *field == NULL;
}

static void read_environment(s3_search *self, const char *region) {
  static const char INSTANCE[] = "http://169.254.169.254", CONTAINER[] = "http://169.254.170.2";
  keep_path(self, &self->paths[0], "AWS_SHARED_CREDENTIALS_FILE", "credentials");
  keep_path(self, &self->paths[1], "AWS_CONFIG_FILE", "config");
  keep(self, &self->web_file, variable("AWS_WEB_IDENTITY_TOKEN_FILE"));
  keep(self, &self->web.role, variable("AWS_ROLE_ARN"));
  keep(self, &self->web.session, variable("AWS_ROLE_SESSION_NAME"));
  keep(self, &self->container_token, variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"));
  keep(self, &self->container_file, variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"));
  const char *relative = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
  keep(self, &self->container_url, variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"));
  bytes url = {0};
  if (relative != NULL) {
    bytes_format(&url, "%s%s", CONTAINER, relative);
    free(self->container_url);
    self->container_url = bytes_detach(&url);
    self->failed |= self->container_url == NULL;
  }
  const char *off = variable("AWS_EC2_METADATA_DISABLED");
  const char *instance = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
  if (off == NULL || strcmp(off, "true") != 0)
    keep(self, &self->instance_url, instance == NULL ? INSTANCE : instance);
  size_t length = self->instance_url == NULL ? 0 : strlen(self->instance_url);
  if (length > 0 && self->instance_url[length - 1] == '/') self->instance_url[length - 1] = '\0';
  keep(self, &self->sts_url, variable("AWS_ENDPOINT_URL_STS"));
  if (self->sts_url != NULL) return;
  bytes_format(&url, "https://sts.%s.amazonaws.com/", region == NULL ? "us-east-1" : region);
  self->sts_url = bytes_detach(&url);
  self->failed |= self->sts_url == NULL;
}

s3_search *s3_search_start(loop *on, const char *profile, const char *region,
                           void (*done)(s3_search_result *result, void *data), void *data) {
  s3_search *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->work.data = self;
  self->done = done;
  self->data = data;
  self->named = profile != NULL;
  if (profile == NULL) profile = variable("AWS_PROFILE");
  keep(self, &self->profile, profile == NULL ? "default" : profile);
  read_environment(self, region);
  if (!self->failed && uv_queue_work(&on->uv, &self->work, search_run, search_done) == 0)
    return self;
  search_free(self);
  return NULL;
}

void s3_search_cancel(s3_search *self) {
  if (self != NULL) self->done = NULL;
}
