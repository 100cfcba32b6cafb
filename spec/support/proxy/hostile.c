/* hostile.c: servers that speak PostgreSQL's protocol badly.
 *
 * The level `hostile` is the server itself. `level mode M` says what it does to the next links:
 *   random    bytes that mean nothing, from the start
 *   greeting  messages of any type and length where the session should begin
 *   early     no end of notices before the session begins
 *   lies      a good beginning, then messages of any type, whose lengths and counts may be wrong
 *   huge      an answer to each statement whose one row claims 2 GiB, and goes on for ever
 *   rows, notices, statuses, notifications    an answer that goes on for ever
 *   unasked   no end of notices to a client that asked nothing
 *
 * The level `mangle` stands before a real server: `level rate N` replaces every N-th byte or so of
 * what the server says by another. */
#include "proxy.h"
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 32 * 1024, SSL_REQUEST = 80877103, GSS_REQUEST = 80877104 };

typedef enum modes {
  RANDOM,
  GREETING,
  EARLY,
  LIES,
  HUGE_ROW,
  ROWS,
  NOTICES,
  STATUSES,
  NOTIFICATIONS,
  UNASKED,
  MODES
} modes;

static const char *const NAMES[MODES] = {"random",        "greeting", "early",   "lies",
                                         "huge",          "rows",     "notices", "statuses",
                                         "notifications", "unasked"};
static modes mode;
static unsigned rate;

typedef struct hostile {
  modes mode;
  bool begun;   /* the client's first packet was answered */
  bool flowing; /* an endless answer is under way */
  unsigned count;
} hostile;

typedef struct packet {
  size_t size;
  char bytes[CHUNK];
} packet;

static unsigned any(unsigned below) {
  return (unsigned)rand() % below;
}

static void put(packet *p, const void *bytes, size_t size) {
  if (size > CHUNK - p->size) size = CHUNK - p->size;
  memcpy(p->bytes + p->size, bytes, size);
  p->size += size;
}

static void put_int(packet *p, uint32_t value, int size) {
  char bytes[4];
  for (int i = 0; i < size; i++)
    bytes[i] = (char)(value >> (8 * (size - 1 - i)));
  put(p, bytes, (size_t)size);
}

static void put_noise(packet *p, size_t size) {
  for (; size > 0; size--)
    put_int(p, any(256), 1);
}

/* A message that is what it says. */
static void put_message(packet *p, char type, const void *body, size_t size) {
  put(p, &type, 1);
  put_int(p, (uint32_t)size + 4, 4);
  put(p, body, size);
}

static void put_lie(packet *p) {
  static const char TYPES[] = "RSKZTDCEANGHWIntv12s3dcV";
  size_t size = any(200);
  uint32_t told = (uint32_t)size + 4;
  unsigned how = any(10);
  if (how == 0) told = 0x7ffffff0 - any(1000);
  if (how == 1) told = any(8);
  if (how == 2) told = 0xffffffff - any(100);
  if (how == 3) told = any(500);
  put(p, &TYPES[any(sizeof TYPES - 1)], 1);
  put_int(p, told, 4);
  if (any(2) == 0 && size > 8) { /* a count in front, as many messages have one */
    put_int(p, any(4) == 0 ? 0xffff : any(4), 2);
    size -= 2;
  }
  put_noise(p, size);
}

static void put_greeting(packet *p) {
  put_message(p, 'R', "\0\0\0\0", 4);
  put_message(p, 'S',
              "server_version\0"
              "15.0",
              20);
  put_message(p, 'S', "client_encoding\0UTF8", 21);
  put_message(p, 'S', "standard_conforming_strings\0on", 31);
  put_message(p, 'K', "\0\0\1\0\0\0\0\1", 8);
  put_message(p, 'Z', "I", 1);
}

/* One column of text, and what comes before it in each way of asking. */
static void put_head(packet *p) {
  static const char COLUMN[] = "\0\1x\0\0\0\0\0\0\0\0\0\0\31\377\377\377\377\377\377\0\0";
  put_message(p, '1', "", 0);
  put_message(p, '2', "", 0);
  put_message(p, 'T', COLUMN, sizeof COLUMN - 1);
}

static void put_endless(packet *p, hostile *self) {
  char text[64];
  while (p->size < CHUNK - 256) {
    memset(text, 0, sizeof text);
    switch (self->mode) {
    case ROWS: put_message(p, 'D', "\0\1\0\0\0\4four", 10); break;
    case STATUSES:
      for (unsigned n = ++self->count, i = 0; i < 8; i++, n /= 16)
        text[i] = (char)('a' + n % 16);
      put_message(p, 'S', text, sizeof text);
      break;
    case NOTIFICATIONS: put_message(p, 'A', "\0\0\0\1channel\0payload", 20); break;
    case HUGE_ROW: put_noise(p, 256); break;
    default: put_message(p, 'N', "SNOTICE\0C00000\0Mhear, hear\0", 28); break;
    }
  }
}

static void flow_on(proxy_link *on, hostile *self) {
  packet p = {0};
  put_endless(&p, self);
  link_send(on, DOWN, p.bytes, p.size);
}

static void begin(proxy_link *on, hostile *self) {
  packet p = {0};
  self->begun = true;
  if (self->mode == RANDOM) {
    put_noise(&p, 1 + any(CHUNK));
  } else if (self->mode == GREETING) {
    for (unsigned n = 1 + any(20); n > 0; n--)
      put_lie(&p);
  } else if (self->mode != EARLY) {
    put_greeting(&p);
  }
  self->flowing = self->mode == EARLY || self->mode == UNASKED;
  if (p.size > 0)
    link_send(on, DOWN, p.bytes, p.size);
  else
    flow_on(on, self);
}

static void answer(proxy_link *on, hostile *self) {
  packet p = {0};
  if (self->flowing || self->mode == GREETING) return;
  if (self->mode == RANDOM) {
    put_noise(&p, 1 + any(1000));
  } else if (self->mode == LIES) {
    if (any(2) == 0) put_head(&p);
    for (unsigned n = 1 + any(20); n > 0; n--)
      put_lie(&p);
  } else {
    put_head(&p);
    if (self->mode == HUGE_ROW) put(&p, "D\177\377\377\360\0\1\177\377\377\340", 11);
    self->flowing = true;
  }
  link_send(on, DOWN, p.bytes, p.size);
}

static uint32_t second_word(const char *bytes, size_t size) {
  const unsigned char *b = (const unsigned char *)bytes + 4;
  return size < 8 ? 0 : (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static void *on_open(proxy_link *on) {
  (void)on;
  hostile *self = take(sizeof *self);
  self->mode = mode;
  return self;
}

static void on_bytes(proxy_link *on, void *state, side from, const char *bytes, size_t size) {
  hostile *self = state;
  (void)from;
  uint32_t request = second_word(bytes, size);
  if (!self->begun && (request == SSL_REQUEST || request == GSS_REQUEST))
    link_send(on, DOWN, "N", 1);
  else if (!self->begun)
    begin(on, self);
  else
    answer(on, self);
}

static void on_end(proxy_link *on, void *state, side from) {
  (void)state, (void)from;
  link_reset(on);
}

static void on_drained(proxy_link *on, void *state, side to) {
  hostile *self = state;
  if (to == DOWN && self->flowing) flow_on(on, self);
}

static const char *set_mode(size_t count, char **words) {
  modes wanted = 0;
  if (count != 2 || strcmp(words[0], "mode") != 0) return "level mode NAME";
  while (wanted < MODES && strcmp(words[1], NAMES[wanted]) != 0)
    wanted++;
  if (wanted == MODES) return "no such mode";
  mode = wanted;
  return NULL;
}

const proxy_level HOSTILE = {.name = "hostile",
                             .is_server = true,
                             .command = set_mode,
                             .opened = on_open,
                             .bytes = on_bytes,
                             .ended = on_end,
                             .drained = on_drained,
                             .closed = free};

static void mangle_bytes(proxy_link *on, void *state, side from, const char *bytes, size_t size) {
  (void)state;
  char *copy = take(size);
  memcpy(copy, bytes, size);
  for (size_t i = 0; from == UP && rate > 0 && i < size; i++)
    if (any(rate) == 0) copy[i] = (char)any(256);
  link_send(on, from == UP ? DOWN : UP, copy, size);
  free(copy);
}

static const char *set_rate(size_t count, char **words) {
  if (count != 2 || strcmp(words[0], "rate") != 0) return "level rate N";
  rate = (unsigned)strtoul(words[1], NULL, 10);
  return NULL;
}

const proxy_level MANGLE = {.name = "mangle", .command = set_rate, .bytes = mangle_bytes};
