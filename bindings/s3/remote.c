/* remote.c: see remote.h. One request after the other; each is tried a few times. */
#include "s3/remote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "http/transfer.h"
#include "http/uri.h"
#include "json/json_reader.h"
#include "s3/xml.h"
#include "time/time_calendar.h"

enum { ATTEMPTS = 3, ANSWER_BYTES_MOST = 64 * 1024, FIELD_MOST = 16 * 1024, NAME_MOST = 512 };

#define INSTANCE_SECONDS 1.0 /* a machine's own service answers at once, or there is none */
#define SERVICE_SECONDS 10.0
#define PAUSE_SECONDS 0.2

/* Of IMDS; the other services know one step. */
typedef enum remote_step { ASK_TOKEN, ASK_ROLE, ASK_KEYS } remote_step;

struct s3_remote {
  http_client *http;
  s3_remote_plan plan;
  const char *proxy, *ca_file;
  void (*done)(s3_remote_answer *answer, void *data);
  void *data;
  remote_step step;
  int attempts;
  char *session; /* of IMDS */
  char role[NAME_MOST];
  bytes form;
  http_transfer *transfer;
  loop_timer *timer;
  s3_remote_answer answer;
};

void s3_remote_plan_free(s3_remote_plan *self) {
  free(self->url);
  s3_secret_free(&self->token);
  free(self->role);
  free(self->session);
  *self = (s3_remote_plan){0};
}

static void ask(void *data);

static void end(s3_remote *self) {
  self->done(&self->answer, self->data);
}

static void fail(s3_remote *self, const char *what) {
  static const char *const WHO[] = {"", "STS", "the container's credentials endpoint",
                                    "the instance metadata service"};
  snprintf(self->answer.problem, sizeof self->answer.problem, "%s gave no credentials: %.300s",
           WHO[self->plan.kind], what);
  end(self);
}

/* ---- answers ---- */

static int64_t read_time(const char *text) {
  int64_t microseconds;
  size_t bad;
  const char *expected;
  if (text == NULL || !time_parse(text, strlen(text), &microseconds, &bad, &expected)) return 0;
  return microseconds / 1000000;
}

static void take_keys(s3_remote *self, const char *id, const char *secret, const char *token,
                      const char *expires) {
  s3_identity *identity = &self->answer.identity;
  self->answer.found = s3_identity_set(identity, id, secret, token) &&
                       identity->access_key_id != NULL && identity->secret_access_key != NULL;
  identity->expires = read_time(expires);
  if (!self->answer.found) {
    fail(self, "its answer has no keys in it");
  } else {
    end(self);
  }
}

/* The members of the outermost object that are wanted; each value is a string. */
static void read_json(s3_remote *self, const bytes *body) {
  static const char *const NAMES[] = {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"};
  char *values[4] = {NULL};
  json_reader reader;
  json_reader_init(&reader, bytes_text(body), body->length, 8);
  int wanted = -1;
  for (json_event event; (event = json_reader_next(&reader)) != JSON_END && event != JSON_ERROR;) {
    if (event == JSON_KEY && reader.depth == 1) {
      wanted = -1;
      for (int i = 0; i < 4; i++) {
        if (strlen(NAMES[i]) == reader.length && memcmp(NAMES[i], reader.text, reader.length) == 0)
          wanted = i;
      }
    } else if (event == JSON_STRING && wanted >= 0 && reader.length < FIELD_MOST) {
      s3_secret_free(&values[wanted]);
      values[wanted] = calloc(1, reader.length + 1);
      if (values[wanted] != NULL) json_reader_unescape(&reader, values[wanted]);
      wanted = -1;
    }
  }
  take_keys(self, values[0], values[1], values[2], values[3]);
  for (int i = 0; i < 4; i++)
    s3_secret_free(&values[i]);
}

static void read_xml(s3_remote *self, const bytes *body) {
  xml_document *document = xml_parse(bytes_text(body), body->length);
  const xml_node *result = xml_child(xml_root(document), "AssumeRoleWithWebIdentityResult");
  const xml_node *keys = xml_child(result, "Credentials");
  take_keys(self, xml_value(keys, "AccessKeyId"), xml_value(keys, "SecretAccessKey"),
            xml_value(keys, "SessionToken"), xml_value(keys, "Expiration"));
  xml_free(document);
}

/* The name of the role is the first line of the list. */
static void read_role(s3_remote *self, const bytes *body) {
  const char *text = bytes_text(body);
  size_t length = strcspn(text, "\r\n");
  if (length == 0 || length >= sizeof self->role) {
    fail(self, "this machine has no role");
    return;
  }
  memcpy(self->role, text, length);
  self->role[length] = '\0';
  self->step = ASK_KEYS;
  self->attempts = 0;
  ask(self);
}

static void read_session(s3_remote *self, const bytes *body) {
  const char *text = bytes_text(body);
  size_t length = strcspn(text, "\r\n");
  s3_secret_free(&self->session);
  self->session = strndup(text, length);
  if (length == 0 || self->session == NULL) {
    fail(self, "its session token is empty");
    return;
  }
  self->step = ASK_ROLE;
  self->attempts = 0;
  ask(self);
}

static void refuse(s3_remote *self, const http_response *response) {
  char text[300], code[64] = "", message[200] = "";
  xml_document *document = xml_parse(bytes_text(&response->body), response->body.length);
  const xml_node *error = xml_child(xml_root(document), "Error");
  if (xml_value(error, "Code") != NULL) snprintf(code, sizeof code, "%s", xml_value(error, "Code"));
  if (xml_value(error, "Message") != NULL)
    snprintf(message, sizeof message, "%s", xml_value(error, "Message"));
  xml_free(document);
  bool quotes = self->plan.token != NULL && strstr(message, self->plan.token) != NULL;
  snprintf(text, sizeof text, "status %d%s%s%s%s", response->status, code[0] == '\0' ? "" : " ",
           code, message[0] == '\0' || quotes ? "" : ": ", quotes ? "" : message);
  fail(self, text);
}

static void on_answer(http_transfer *transfer, void *data) {
  s3_remote *self = data;
  http_response *response = http_transfer_response(transfer);
  bool silent = response->outcome != HTTP_DONE;
  http_outcome outcome = response->outcome;
  bool again =
      silent ? outcome != HTTP_CANCELLED && outcome != HTTP_REFUSED && outcome != HTTP_UNTRUSTED
             : response->status / 100 == 5 || response->status == 429;
  if (silent && self->plan.kind == S3_REMOTE_INSTANCE && self->step == ASK_TOKEN) again = false;
  self->transfer = NULL;
  if (again && self->attempts < ATTEMPTS) {
    self->timer =
        loop_timer_start(http_client_loop(self->http), PAUSE_SECONDS * self->attempts, ask, self);
    if (self->timer == NULL) fail(self, "out of memory");
  } else if (silent) {
    fail(self, response->message);
  } else if (response->status != 200) {
    refuse(self, response);
  } else if (self->plan.kind == S3_REMOTE_WEB_IDENTITY) {
    read_xml(self, &response->body);
  } else if (self->plan.kind == S3_REMOTE_CONTAINER || self->step == ASK_KEYS) {
    read_json(self, &response->body);
  } else if (self->step == ASK_TOKEN) {
    read_session(self, &response->body);
  } else {
    read_role(self, &response->body);
  }
  if (response->body.data != NULL) explicit_bzero(response->body.data, response->body.length);
  http_transfer_free(transfer);
}

/* ---- requests ---- */

static bool add_field(bytes *form, const char *name, const char *value) {
  bytes_format(form, "&%s=", name);
  return uri_encode(form, value, strlen(value), false);
}

static void describe(s3_remote *self, http_request *request, bytes *url, http_headers *headers) {
  static const char *const PATHS[] = {"/latest/api/token",
                                      "/latest/meta-data/iam/security-credentials/",
                                      "/latest/meta-data/iam/security-credentials/"};
  const s3_remote_plan *plan = &self->plan;
  bytes_append_text(url, plan->url);
  request->method = "GET";
  switch (plan->kind) {
  case S3_REMOTE_WEB_IDENTITY:
    bytes_clear(&self->form);
    bytes_append_text(&self->form, "Action=AssumeRoleWithWebIdentity&Version=2011-06-15");
    add_field(&self->form, "RoleArn", plan->role);
    add_field(&self->form, "RoleSessionName", plan->session);
    add_field(&self->form, "WebIdentityToken", plan->token);
    url->failed |= self->form.failed ||
                   !http_headers_add(headers, "Content-Type", "application/x-www-form-urlencoded");
    request->method = "POST";
    request->body = bytes_text(&self->form);
    request->body_length = self->form.length;
    break;
  case S3_REMOTE_CONTAINER:
    if (plan->token != NULL)
      url->failed |= !http_headers_add(headers, "Authorization", plan->token);
    break;
  default:
    bytes_append_text(url, PATHS[self->step]);
    if (self->step == ASK_KEYS) uri_encode(url, self->role, strlen(self->role), false);
    if (self->step == ASK_TOKEN) {
      request->method = "PUT";
      request->body = "";
      url->failed |= !http_headers_add(headers, "X-aws-ec2-metadata-token-ttl-seconds", "21600");
    } else {
      url->failed |= !http_headers_add(headers, "X-aws-ec2-metadata-token", self->session);
    }
  }
}

static void ask(void *data) {
  s3_remote *self = data;
  self->timer = NULL;
  self->attempts++;
  bool service = self->plan.kind == S3_REMOTE_WEB_IDENTITY;
  bytes url = {0};
  http_headers headers = {0};
  http_request request = {
      .headers = &headers,
      .on_done = on_answer,
      .data = self,
      .max_bytes = ANSWER_BYTES_MOST,
      .connect_timeout = service ? SERVICE_SECONDS : INSTANCE_SECONDS,
      .total_timeout = service ? SERVICE_SECONDS : 2 * INSTANCE_SECONDS,
      .proxy = service ? self->proxy : "",
      .ca_file = service ? self->ca_file : NULL,
  };
  describe(self, &request, &url, &headers);
  request.url = bytes_text(&url);
  self->transfer = url.failed ? NULL : http_transfer_start(self->http, &request);
  http_headers_free(&headers);
  bytes_free(&url);
  if (self->transfer == NULL) fail(self, "out of memory");
}

s3_remote *s3_remote_start(http_client *http, s3_remote_plan *plan, const char *proxy,
                           const char *ca_file, void (*done)(s3_remote_answer *answer, void *data),
                           void *data) {
  s3_remote *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->http = http;
  self->proxy = proxy;
  self->ca_file = ca_file;
  self->done = done;
  self->data = data;
  self->timer = loop_timer_start(http_client_loop(http), 0, ask, self);
  if (self->timer == NULL) {
    free(self);
    return NULL;
  }
  self->plan = *plan;
  *plan = (s3_remote_plan){0};
  return self;
}

void s3_remote_free(s3_remote *self) {
  if (self == NULL) return;
  loop_timer_stop(http_client_loop(self->http), self->timer);
  http_transfer_free(self->transfer);
  s3_remote_plan_free(&self->plan);
  s3_secret_free(&self->session);
  if (self->form.data != NULL) explicit_bzero(self->form.data, self->form.length);
  bytes_free(&self->form);
  s3_identity_free(&self->answer.identity);
  free(self);
}
