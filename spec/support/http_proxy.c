/* http_proxy.c: an HTTP server for the specs, which answers as it is told, or passes requests on to
 * a real server and damages what comes back. One request a connection, one thread a connection.
 *
 *   http_proxy [UPSTREAM_PORT]      prints the port it listens on, on 127.0.0.1
 *
 * It knows requests, and one is chosen by what it asks for; spec/support/proxy/ knows bytes, and
 * does to all of a connection what networks do to them.
 *
 * POST /_rules replaces the rules: one a line, name=value pairs joined by "&", percent-encoded. The
 * first rule that a request meets decides; a request that meets none is passed on, unchanged.
 *   meets:   method=  path=<part of the target>  skip=<requests first>  times=<requests>  percent=
 *   action:  do=answer   status=  headers=<lines>  body=
 *            do=pass     (the default) passes on, and does to the answer:
 *                        header=<line in place of one of that name>  length=<more than there is>
 *                        flip=<offset>  cut=<bytes of the body, then the end>
 *                        stop=<bytes of the body, then silence>  rate=<bytes a second>
 *            do=lose     passes on, then breaks the connection
 *            do=reset    do=hold (silence)
 * GET /_log tells every request since the last POST, oldest first. */
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { RULES = 64, HEAD_MOST = 64 * 1024, LOGGED_BODY = 4096 };

typedef struct text {
  char *data;
  size_t length, room;
} text;

typedef struct rule {
  char *fields[32][2];
  int count, met;
} rule;

static rule rules[RULES];
static int rule_count;
static text log_text;
static unsigned seed = 17;
static int upstream_port;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void append(text *out, const char *data, size_t length) {
  if (out->length + length + 1 > out->room) {
    out->room = (out->length + length + 1) * 2;
    out->data = realloc(out->data, out->room);
    if (out->data == NULL) abort();
  }
  memcpy(out->data + out->length, data, length);
  out->length += length;
  out->data[out->length] = '\0';
}

static void append_text(text *out, const char *data) {
  append(out, data, strlen(data));
}

static char *decoded(const char *from, size_t length) {
  char *out = malloc(length + 1), *to = out;
  if (out == NULL) abort();
  for (size_t i = 0; i < length; i++) {
    unsigned byte;
    if (from[i] == '%' && i + 2 < length && sscanf(from + i + 1, "%2x", &byte) == 1) {
      *to++ = (char)byte;
      i += 2;
    } else {
      *to++ = from[i];
    }
  }
  *to = '\0';
  return out;
}

static const char *field(const rule *self, const char *name) {
  for (int i = 0; self != NULL && i < self->count; i++) {
    if (strcmp(self->fields[i][0], name) == 0) return self->fields[i][1];
  }
  return NULL;
}

static long number(const rule *self, const char *name, long otherwise) {
  const char *value = field(self, name);
  return value == NULL ? otherwise : atol(value);
}

/* The old rules stay in memory: a thread may still use one. */
static void take_rules(const char *body) {
  memset(rules, 0, sizeof rules);
  rule_count = 0;
  while (*body != '\0' && rule_count < RULES) {
    size_t line = strcspn(body, "\n");
    const char *end = body + line;
    rule *new = &rules[rule_count++];
    while (body < end && new->count < 32) {
      size_t pair = strcspn(body, "&\n"), name = strcspn(body, "=");
      new->fields[new->count][0] = decoded(body, name);
      new->fields[new->count++][1] = decoded(body + name + 1, pair - name - 1);
      body += pair + (body[pair] == '&');
    }
    body = end + (*end == '\n');
  }
  log_text.length = 0;
}

/* A copy of the rule that this request meets; count 0: none. */
static rule decide(const char *method, const char *target) {
  rule found = {0};
  for (int i = 0; i < rule_count && found.count == 0; i++) {
    rule *self = &rules[i];
    const char *wanted = field(self, "method"), *path = field(self, "path");
    if ((wanted != NULL && strcmp(wanted, method) != 0) ||
        (path != NULL && strstr(target, path) == NULL))
      continue;
    long first = number(self, "skip", 0), turn = self->met++;
    if (turn < first || turn - first >= number(self, "times", 1L << 30)) continue;
    if (rand_r(&seed) % 100 < number(self, "percent", 100)) found = *self;
  }
  return found;
}

/* ---- sockets ---- */

static bool send_all(int to, const char *data, size_t length) {
  while (length > 0) {
    ssize_t sent = send(to, data, length, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    data += sent;
    length -= (size_t)sent;
  }
  return true;
}

static bool read_some(int from, text *into) {
  char piece[65536];
  ssize_t got = recv(from, piece, sizeof piece, 0);
  if (got <= 0) return false;
  append(into, piece, (size_t)got);
  return true;
}

static size_t head_length(const text *message) {
  const char *end = message->data == NULL ? NULL : strstr(message->data, "\r\n\r\n");
  return end == NULL ? 0 : (size_t)(end - message->data) + 4;
}

/* The start of the header line of that name, or NULL. */
static char *find_header(const text *message, size_t head, const char *name) {
  char *line = strstr(message->data, "\r\n");
  size_t length = strlen(name);
  for (; line != NULL && (size_t)(line - message->data) + 4 < head; line = strstr(line, "\r\n")) {
    line += 2;
    if (strncasecmp(line, name, length) == 0 && line[length] == ':') return line;
  }
  return NULL;
}

static size_t content_length(const text *message, size_t head) {
  const char *line = find_header(message, head, "content-length");
  return line == NULL ? 0 : strtoul(line + 15, NULL, 10);
}

static bool read_request(int from, text *into, size_t *head) {
  while ((*head = head_length(into)) == 0) {
    if (into->length > HEAD_MOST || !read_some(from, into)) return false;
  }
  size_t wanted = *head + content_length(into, *head);
  while (into->length < wanted) {
    if (!read_some(from, into)) return false;
  }
  return true;
}

static void wait_for_end(int connection) {
  struct pollfd waiting = {connection, POLLRDHUP, 0};
  poll(&waiting, 1, -1);
}

static void reset(int connection) {
  struct linger now = {1, 0};
  setsockopt(connection, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

/* ---- passing on ---- */

static void replace_header(text *message, size_t *head, const char *line) {
  char name[128];
  snprintf(name, sizeof name, "%.*s", (int)strcspn(line, ":"), line);
  char *old = find_header(message, *head, name);
  text out = {0};
  size_t at = *head - 2, after = *head - 2;
  if (old != NULL) {
    at = (size_t)(old - message->data);
    after = at + strcspn(old, "\r") + 2;
  }
  append(&out, message->data, at);
  append_text(&out, line);
  append_text(&out, "\r\n");
  append(&out, message->data + after, message->length - after);
  free(message->data);
  *message = out;
  *head = head_length(message);
}

static bool pass_on(const text *request, size_t head, text *answer) {
  int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)upstream_port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  bool well = connect(server, (struct sockaddr *)&to, sizeof to) == 0 &&
              send_all(server, request->data, head - 2) &&
              send_all(server, "Connection: close\r\n\r\n", 21) &&
              send_all(server, request->data + head, request->length - head);
  while (well && read_some(server, answer))
    ;
  close(server);
  return well && head_length(answer) > 0;
}

static void change(const rule *self, text *answer, size_t *head) {
  const char *line = field(self, "header");
  long flip = number(self, "flip", -1), more = number(self, "length", 0);
  replace_header(answer, head, "Connection: close");
  if (line != NULL) replace_header(answer, head, line);
  if (more != 0) {
    char stated[64];
    snprintf(stated, sizeof stated, "Content-Length: %ld",
             (long)content_length(answer, *head) + more);
    replace_header(answer, head, stated);
  }
  if (flip >= 0 && *head + (size_t)flip < answer->length) answer->data[*head + (size_t)flip] ^= 1;
}

static void give(int to, const rule *self, const text *answer, size_t head) {
  long cut = number(self, "cut", -1), stop = number(self, "stop", -1),
       rate = number(self, "rate", 0);
  size_t end = answer->length;
  if (cut >= 0 && head + (size_t)cut < end) end = head + (size_t)cut;
  if (stop >= 0 && head + (size_t)stop < end) end = head + (size_t)stop;
  if (rate > 0) {
    size_t at = head;
    bool well = send_all(to, answer->data, head);
    for (size_t piece; well && at < end; at += piece) {
      piece = end - at < (size_t)rate / 10 + 1 ? end - at : (size_t)rate / 10 + 1;
      well = send_all(to, answer->data + at, piece);
      nanosleep(&(struct timespec){0, 100000000}, NULL);
    }
  } else {
    send_all(to, answer->data, end);
  }
  if (stop >= 0) wait_for_end(to);
}

static void answer_as_told(int to, const rule *self, bool head_only) {
  const char *body = field(self, "body"), *lines = field(self, "headers");
  if (body == NULL) body = "";
  text out = {0};
  char line[128];
  snprintf(line, sizeof line, "HTTP/1.1 %ld Told\r\nConnection: close\r\nContent-Length: %zu\r\n",
           number(self, "status", 200), strlen(body));
  append_text(&out, line);
  if (lines != NULL) append_text(&out, lines);
  append_text(&out, "\r\n");
  if (!head_only) append_text(&out, body);
  send_all(to, out.data, out.length);
  free(out.data);
}

/* ---- one connection ---- */

static void note(const text *request, size_t head) {
  char line[64];
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  append(&log_text, request->data, head - 2);
  snprintf(line, sizeof line, "x-at: %lld.%06ld\r\nx-body: ", (long long)now.tv_sec,
           now.tv_nsec / 1000);
  append_text(&log_text, line);
  size_t length = request->length - head < LOGGED_BODY ? request->length - head : LOGGED_BODY;
  for (size_t i = 0; i < length; i++) {
    snprintf(line, sizeof line, "%%%02X", (unsigned char)request->data[head + i]);
    append_text(&log_text, line);
  }
  append_text(&log_text, "\r\n\r\n");
}

static void control(int to, bool is_log, const char *body) {
  rule answer = {.count = 1};
  pthread_mutex_lock(&lock);
  if (!is_log) take_rules(body);
  answer.fields[0][0] = "body";
  answer.fields[0][1] = is_log && log_text.length > 0 ? log_text.data : "";
  answer_as_told(to, &answer, false);
  pthread_mutex_unlock(&lock);
}

static void serve_request(int from, const text *request, size_t head) {
  char method[16] = "", target[8192] = "";
  sscanf(request->data, "%15s %8191s", method, target);
  if (strcmp(target, "/_log") == 0 || strcmp(target, "/_rules") == 0) {
    control(from, target[2] == 'l', request->data + head);
    return;
  }
  pthread_mutex_lock(&lock);
  note(request, head);
  rule met = decide(method, target);
  pthread_mutex_unlock(&lock);
  const char *action = field(&met, "do") == NULL ? "pass" : field(&met, "do");
  text answer = {0};
  if (strcmp(action, "answer") == 0) {
    answer_as_told(from, &met, strcmp(method, "HEAD") == 0);
  } else if (strcmp(action, "hold") == 0) {
    wait_for_end(from);
  } else if (strcmp(action, "reset") == 0 || !pass_on(request, head, &answer) ||
             strcmp(action, "lose") == 0) {
    reset(from);
  } else {
    size_t answer_head = head_length(&answer);
    change(&met, &answer, &answer_head);
    give(from, &met, &answer, answer_head);
  }
  free(answer.data);
}

static void *serve(void *data) {
  int from = (int)(long)data;
  text request = {0};
  size_t head;
  if (read_request(from, &request, &head)) serve_request(from, &request, head);
  shutdown(from, SHUT_WR);
  close(from);
  free(request.data);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc > 1) upstream_port = atoi(argv[1]);
  signal(SIGPIPE, SIG_IGN);
  int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t size = sizeof address;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listening, (struct sockaddr *)&address, size) != 0 || listen(listening, 512) != 0 ||
      getsockname(listening, (struct sockaddr *)&address, &size) != 0)
    return 1;
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  for (;;) {
    int connection = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    pthread_t thread;
    if (connection < 0) continue;
    if (pthread_create(&thread, NULL, serve, (void *)(long)connection) == 0) {
      pthread_detach(thread);
    } else {
      close(connection);
    }
  }
}
