/* proxy.h: a proxy that brings the specs' faults: it stands between a client and a real server, or
 * is the server itself, and does to their bytes what networks and broken servers do.
 *
 * One process is one proxy: one port of 127.0.0.1, one upstream (TCP or a unix socket), many links.
 * A link is a client's connection and the one to the upstream; each of its two flows takes bytes
 * from one side to the other, shaped by the settings of its direction (link.c). How connects are
 * answered is the listener's part (listener.c). A level stands between the two, sees what each side
 * sends and decides what goes on: that is where a protocol's own faults are made.
 *
 * It is told what to do over standard input, a line a command, while it runs, and answers each with
 * a line: "ok", "ok NAME=VALUE ...", or "error WHY". It ends when its standard input does. The
 * commands (main.c); SIDE is `up`, towards the server, `down`, towards the client, or `both`:
 *   set SIDE latency S       every byte arrives S seconds later,
 *   set SIDE jitter S        +- a random part of S
 *   set SIDE slice N         at most N bytes a write
 *   set SIDE bandwidth N     N bytes a second
 *   set SIDE stall 0|1       nothing goes on while it is 1, and nothing is lost
 *   set SIDE stall-after N   a link's flow stalls after N bytes; also reset-after, finish-after
 *   clear                    no fault: the settings of both sides and of accepting
 *   accept open              connects are taken; or: refuse, silent (taken, and never heard),
 *                            reset (taken and reset), unanswered (not answered at all)
 *   reset                    every open link is reset
 *   finish SIDE              that side is told the end of the stream
 *   to tcp ADDRESS PORT      another upstream, for links from now on
 *   to unix PATH
 *   count                    accepted=, open=, up=, down=: links, and bytes passed on
 *   level WORDS...           for the level
 *
 * Bounds: MOST_LINKS links; a flow stops reading its sender where QUEUE_BYTES wait to go on. */
#ifndef NEBULA_SPEC_PROXY_H
#define NEBULA_SPEC_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum { MOST_LINKS = 4096, QUEUE_BYTES = 256 * 1024 };

/* Where bytes go; also, who is at that end. */
typedef enum side { UP, DOWN } side;

typedef struct proxy_link proxy_link;

/* ---- the faults of a direction ---- */

typedef struct shape {
  double latency, jitter;    /* seconds */
  uint64_t slice, bandwidth; /* 0: without bound */
  bool stall;
  uint64_t stall_after, reset_after, finish_after; /* 0: never */
} shape;

/* ---- levels ---- */

/* A protocol's faults. `opened` returns the state of a link; `bytes` and `ended` are told what the
 * side `from` has sent, and pass on what they like with link_send and link_end; `drained` is called
 * when everything for the side `to` was written. Whatever is NULL does nothing, or passes
 * everything on. */
typedef struct proxy_level {
  const char *name;
  bool is_server; /* it answers by itself: its links have no upstream */
  const char *(*command)(size_t count, char **words); /* NULL, or what is wrong with it */
  void *(*opened)(proxy_link *on);
  void (*bytes)(proxy_link *on, void *state, side from, const char *bytes, size_t size);
  void (*ended)(proxy_link *on, void *state, side from);
  void (*drained)(proxy_link *on, void *state, side to);
  void (*closed)(void *state);
} proxy_level;

extern const proxy_level *const LEVELS[]; /* up to NULL */
extern const proxy_level HOSTILE, MANGLE; /* hostile.c */

/* ---- links (link.c) ---- */

typedef struct target {
  bool local; /* `address` is the path of a unix socket */
  char address[108];
  int port;
} target;

typedef struct counts {
  uint64_t accepted, open, passed[2];
} counts;

/* What is common to all links. */
typedef struct proxy {
  uv_loop_t loop;
  const proxy_level *level;
  target to;
  shape shapes[2];
  counts counts;
  proxy_link *links;
} proxy;

/* Takes over a client's connection; `silent`: nothing is read from it and nothing sent. */
void link_open(proxy *on, int client, bool silent);

/* Puts bytes, or the end of the stream, behind what is already on its way to a side. */
void link_send(proxy_link *self, side to, const char *bytes, size_t size);
void link_end(proxy_link *self, side to);

/* Everything sent to this side from now on goes that many seconds later. */
void link_delay(proxy_link *self, side to, double seconds);

/* This link's own faults for a direction, to be changed; until then they are everybody's. */
shape *link_shape(proxy_link *self, side to);

/* Ends it at once: both sides get a reset. */
void link_reset(proxy_link *self);

/* For every link: go on where a changed setting allows it; reset; the end of the stream to a side.
 */
void links_pump(proxy *on);
void links_reset(proxy *on);
void links_finish(proxy *on, side to);

/* ---- listening (listener.c) ---- */

/* The port of 127.0.0.1 that it listens on, or 0 and errno. */
int listener_start(proxy *on);

/* False where there is no such way to answer a connect. */
bool listener_set(const char *how);

/* ---- memory: a tool of the specs that has none left ends ---- */

void *take(size_t size);

#endif
