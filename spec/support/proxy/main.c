/* main.c: proxy LEVEL tcp ADDRESS PORT | unix PATH | none: prints "port N", then does what standard
 * input says (proxy.h). */
#include "proxy.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_BYTES = 1024, MOST_WORDS = 32 };

static const proxy_level PASS = {.name = "pass"};

const proxy_level *const LEVELS[] = {&PASS, &HOSTILE, &MANGLE, NULL};

static proxy self;

static struct {
  char text[LINE_BYTES];
  size_t size;
} line;

/* ---- commands ---- */

static bool parse_number(const char *text, double *value) {
  char *end;
  *value = strtod(text, &end);
  return *text != '\0' && *end == '\0' && *value >= 0 && *value <= 1e15;
}

static bool change(shape *how, const char *name, double value) {
  uint64_t whole = (uint64_t)value;
  if (strcmp(name, "latency") == 0)
    how->latency = value;
  else if (strcmp(name, "jitter") == 0)
    how->jitter = value;
  else if (strcmp(name, "slice") == 0)
    how->slice = whole;
  else if (strcmp(name, "bandwidth") == 0)
    how->bandwidth = whole;
  else if (strcmp(name, "stall") == 0)
    how->stall = whole != 0;
  else if (strcmp(name, "stall-after") == 0)
    how->stall_after = whole;
  else if (strcmp(name, "reset-after") == 0)
    how->reset_after = whole;
  else if (strcmp(name, "finish-after") == 0)
    how->finish_after = whole;
  else
    return false;
  return true;
}

/* The sides that a word means, as a set of bits. */
static unsigned parse_sides(const char *word) {
  if (strcmp(word, "both") == 0) return 1u << UP | 1u << DOWN;
  if (strcmp(word, "up") == 0) return 1u << UP;
  return strcmp(word, "down") == 0 ? 1u << DOWN : 0;
}

static const char *set(size_t count, char **words) {
  double value;
  unsigned sides = count == 4 ? parse_sides(words[1]) : 0;
  if (sides == 0 || !parse_number(words[3], &value)) return "set SIDE NAME NUMBER";
  for (side s = UP; s <= DOWN; s++)
    if ((sides >> s & 1) != 0 && !change(&self.shapes[s], words[2], value)) return "no such fault";
  links_pump(&self);
  return NULL;
}

static const char *parse_target(size_t count, char **words, target *to) {
  target parsed = {0};
  double port = 0;
  parsed.local = count == 2 && strcmp(words[0], "unix") == 0;
  bool tcp = count == 3 && strcmp(words[0], "tcp") == 0 && parse_number(words[2], &port);
  if ((!parsed.local && !tcp) || port > 65535 || strlen(words[1]) >= sizeof parsed.address)
    return "tcp ADDRESS PORT or unix PATH";
  strcpy(parsed.address, words[1]);
  parsed.port = (int)port;
  *to = parsed;
  return NULL;
}

static const char *finish(size_t count, char **words) {
  unsigned sides = count == 2 ? parse_sides(words[1]) : 0;
  if (sides == 0) return "finish SIDE";
  for (side s = UP; s <= DOWN; s++)
    if ((sides >> s & 1) != 0) links_finish(&self, s);
  return NULL;
}

static const char *clear(void) {
  for (side s = UP; s <= DOWN; s++)
    self.shapes[s] = (shape){0};
  listener_set("open");
  links_pump(&self);
  return NULL;
}

static const char *obey(size_t count, char **words) {
  if (count == 0) return "no command";
  if (strcmp(words[0], "set") == 0) return set(count, words);
  if (strcmp(words[0], "clear") == 0) return clear();
  if (strcmp(words[0], "finish") == 0) return finish(count, words);
  if (strcmp(words[0], "to") == 0) return parse_target(count - 1, words + 1, &self.to);
  if (strcmp(words[0], "accept") == 0)
    return count == 2 && listener_set(words[1]) ? NULL
                                                : "accept open|refuse|silent|reset|unanswered";
  if (strcmp(words[0], "level") == 0 && self.level->command != NULL)
    return self.level->command(count - 1, words + 1);
  if (strcmp(words[0], "count") == 0) return NULL;
  if (strcmp(words[0], "reset") != 0) return "no such command";
  links_reset(&self);
  return NULL;
}

static size_t split(char *text, char **words) {
  size_t count = 0;
  char *rest;
  for (char *word = strtok_r(text, " ", &rest); word != NULL && count < MOST_WORDS;
       word = strtok_r(NULL, " ", &rest))
    words[count++] = word;
  return count;
}

static void answer(char *text) {
  char *words[MOST_WORDS];
  size_t count = split(text, words);
  const char *problem = obey(count, words);
  if (problem != NULL)
    printf("error %s\n", problem);
  else if (strcmp(words[0], "count") == 0)
    printf("ok accepted=%llu open=%llu up=%llu down=%llu\n",
           (unsigned long long)self.counts.accepted, (unsigned long long)self.counts.open,
           (unsigned long long)self.counts.passed[UP],
           (unsigned long long)self.counts.passed[DOWN]);
  else
    printf("ok\n");
  fflush(stdout);
}

/* ---- standard input ---- */

static void on_room(uv_handle_t *handle, size_t wanted, uv_buf_t *buf) {
  (void)handle, (void)wanted;
  if (line.size == sizeof line.text) exit(2); /* no command is that long */
  *buf = uv_buf_init(line.text + line.size, (unsigned)(sizeof line.text - line.size));
}

static void on_read(uv_stream_t *input, ssize_t n, const uv_buf_t *buf) {
  (void)input, (void)buf;
  if (n < 0) exit(0);
  line.size += (size_t)n;
  char *end;
  while ((end = memchr(line.text, '\n', line.size)) != NULL) {
    size_t used = (size_t)(end - line.text) + 1;
    *end = '\0';
    answer(line.text);
    line.size -= used;
    memmove(line.text, line.text + used, line.size);
  }
}

static const proxy_level *find_level(const char *name) {
  for (size_t i = 0; LEVELS[i] != NULL; i++)
    if (strcmp(LEVELS[i]->name, name) == 0) return LEVELS[i];
  return NULL;
}

int main(int argc, char **argv) {
  uv_pipe_t input;
  self.level = argc > 2 ? find_level(argv[1]) : NULL;
  bool alone = argc == 3 && strcmp(argv[2], "none") == 0;
  if (self.level == NULL ||
      (!alone && parse_target((size_t)argc - 2, argv + 2, &self.to) != NULL)) {
    fprintf(stderr, "usage: proxy LEVEL tcp ADDRESS PORT | unix PATH | none\n");
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  uv_loop_init(&self.loop);
  int port = listener_start(&self);
  if (port == 0) {
    fprintf(stderr, "proxy: cannot listen: %s\n", strerror(errno));
    return 1;
  }
  uv_pipe_init(&self.loop, &input, 0);
  if (uv_pipe_open(&input, 0) != 0 || uv_read_start((uv_stream_t *)&input, on_room, on_read) != 0)
    return 1;
  printf("port %d\n", port);
  fflush(stdout);
  return uv_run(&self.loop, UV_RUN_DEFAULT);
}
