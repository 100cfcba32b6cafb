/* link.c: a client's connection, the one to the upstream, and what happens to bytes between them.
 */
#include "proxy.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { READ_BYTES = 64 * 1024, HANDLES = 4 };

typedef struct chunk {
  struct chunk *next;
  double due; /* ms on the loop's clock */
  size_t size, at;
  bool end;
  char bytes[];
} chunk;

/* Bytes on their way to one side. */
typedef struct flow {
  proxy_link *link;
  side to;
  chunk *first, *last;
  size_t queued;
  uint64_t passed;
  double delay, credit, credited_ms;
  bool writing, ended, finished; /* ended: no more comes; finished: the side was told so */
  shape own;
  bool has_own;
  uv_timer_t timer;
} flow;

typedef union stream {
  uv_stream_t any;
  uv_tcp_t tcp;
  uv_pipe_t pipe;
} stream;

struct proxy_link {
  proxy *proxy;
  proxy_link *next, *previous;
  stream ends[2];
  flow flows[2];
  void *state;
  int handles; /* not closed yet */
  bool open[2], local, silent, closing;
  uv_connect_t connecting;
};

typedef struct writing {
  uv_write_t request;
  flow *flow;
  char bytes[];
} writing;

static void pump(flow *self);

void *take(size_t size) {
  void *memory = calloc(1, size);
  if (memory == NULL) abort();
  return memory;
}

static side other(side s) {
  return s == UP ? DOWN : UP;
}

static const shape *shape_of(const flow *self) {
  return self->has_own ? &self->own : &self->link->proxy->shapes[self->to];
}

/* ---- the end of a link ---- */

static void on_closed(uv_handle_t *handle) {
  proxy_link *self = handle->data;
  if (--self->handles > 0) return;
  proxy *on = self->proxy;
  if (self->previous != NULL)
    self->previous->next = self->next;
  else
    on->links = self->next;
  if (self->next != NULL) self->next->previous = self->previous;
  on->counts.open--;
  for (side s = UP; s <= DOWN; s++) {
    for (chunk *c = self->flows[s].first, *next; c != NULL; c = next) {
      next = c->next;
      free(c);
    }
  }
  if (on->level->closed != NULL) on->level->closed(self->state);
  free(self);
}

static void close_link(proxy_link *self, bool reset) {
  if (self->closing) return;
  self->closing = true;
  for (side s = UP; s <= DOWN; s++) {
    uv_os_fd_t fd;
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    if (reset && uv_fileno((uv_handle_t *)&self->ends[s].any, &fd) == 0)
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    uv_close((uv_handle_t *)&self->ends[s].any, on_closed);
    uv_close((uv_handle_t *)&self->flows[s].timer, on_closed);
  }
}

void link_reset(proxy_link *self) {
  close_link(self, true);
}

/* ---- reading ---- */

static void on_room(uv_handle_t *handle, size_t wanted, uv_buf_t *buf) {
  static char room[READ_BYTES];
  (void)handle, (void)wanted;
  *buf = uv_buf_init(room, sizeof room);
}

static void on_read(uv_stream_t *from_stream, ssize_t n, const uv_buf_t *buf) {
  proxy_link *self = from_stream->data;
  side from = from_stream == &self->ends[UP].any ? UP : DOWN;
  const proxy_level *level = self->proxy->level;
  if (n == 0) return;
  if (n > 0) {
    if (level->bytes != NULL)
      level->bytes(self, self->state, from, buf->base, (size_t)n);
    else
      link_send(self, other(from), buf->base, (size_t)n);
  } else if (n == UV_EOF) {
    uv_read_stop(from_stream);
    if (level->ended != NULL)
      level->ended(self, self->state, from);
    else
      link_end(self, other(from));
  } else {
    link_reset(self);
  }
}

static void read_on(proxy_link *self, side from) {
  const flow *into = &self->flows[other(from)];
  if (self->closing || self->silent || !self->open[from] || into->ended) return;
  if (into->queued < QUEUE_BYTES)
    uv_read_start(&self->ends[from].any, on_room, on_read);
  else
    uv_read_stop(&self->ends[from].any);
}

/* ---- a flow ---- */

static void push(flow *self, const char *bytes, size_t size, bool end) {
  const shape *how = shape_of(self);
  if (self->ended || self->link->closing) return;
  chunk *c = take(sizeof *c + size);
  double jitter = how->jitter * ((double)rand() / RAND_MAX * 2 - 1), wait = how->latency + jitter;
  c->due = (double)uv_now(&self->link->proxy->loop) + (wait > 0 ? wait : 0) * 1000;
  c->due += self->delay * 1000;
  if (self->last != NULL && c->due < self->last->due) c->due = self->last->due;
  if (size > 0) memcpy(c->bytes, bytes, size);
  c->size = size;
  c->end = self->ended = end;
  if (self->last != NULL)
    self->last->next = c;
  else
    self->first = c;
  self->last = c;
  self->queued += size;
  read_on(self->link, other(self->to));
  pump(self);
}

void link_send(proxy_link *self, side to, const char *bytes, size_t size) {
  if (size > 0) push(&self->flows[to], bytes, size, false);
}

void link_end(proxy_link *self, side to) {
  push(&self->flows[to], NULL, 0, true);
}

void link_delay(proxy_link *self, side to, double seconds) {
  self->flows[to].delay = seconds;
}

shape *link_shape(proxy_link *self, side to) {
  flow *f = &self->flows[to];
  if (!f->has_own) f->own = self->proxy->shapes[to];
  f->has_own = true;
  return &f->own;
}

static void on_due(uv_timer_t *timer) {
  proxy_link *self = timer->data;
  pump(&self->flows[timer == &self->flows[UP].timer ? UP : DOWN]);
}

static void pump_later(flow *self, double ms) {
  uv_timer_start(&self->timer, on_due, ms > 1 ? (uint64_t)ms : 1, 0);
}

static void on_shut(uv_shutdown_t *request, int status) {
  proxy_link *self = request->data;
  (void)status;
  free(request);
  if (self->flows[UP].finished && self->flows[DOWN].finished) close_link(self, false);
}

static void finish(flow *self) {
  proxy_link *on = self->link;
  if (self->finished) return;
  self->ended = self->finished = true;
  uv_shutdown_t *request = take(sizeof *request);
  request->data = on;
  if (uv_shutdown(request, &on->ends[self->to].any, on_shut) != 0) {
    free(request);
    close_link(on, false);
  }
}

/* How much of the first chunk may go now; 0 where it has to wait. */
static size_t allowance(flow *self, const shape *how) {
  double now = (double)uv_now(&self->link->proxy->loop);
  size_t most = self->first->size - self->first->at;
  if (how->slice > 0 && most > how->slice) most = how->slice;
  const uint64_t ends[] = {how->stall_after, how->reset_after, how->finish_after};
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
    if (ends[i] > self->passed && most > ends[i] - self->passed) most = ends[i] - self->passed;
  if (how->bandwidth == 0) return most;
  double rate = (double)how->bandwidth / 1000, full = rate * 20 > 1 ? rate * 20 : 1;
  self->credit += (now - self->credited_ms) * rate;
  self->credited_ms = now;
  if (self->credit > full) self->credit = full;
  if (self->credit < 1) {
    pump_later(self, (1 - self->credit) / rate);
    return 0;
  }
  if ((double)most > self->credit) most = (size_t)self->credit;
  self->credit -= (double)most;
  return most;
}

static void on_written(uv_write_t *request, int status) {
  writing *w = (writing *)request;
  flow *self = w->flow;
  free(w);
  self->writing = false;
  if (status < 0 && status != UV_ECANCELED)
    link_reset(self->link);
  else if (status == 0)
    pump(self);
  proxy_link *on = self->link;
  const proxy_level *level = on->proxy->level;
  if (level->drained != NULL && self->first == NULL && !self->writing && !on->closing)
    level->drained(on, on->state, self->to);
}

static void write_some(flow *self, size_t size) {
  chunk *c = self->first;
  writing *w = take(sizeof *w + size);
  w->flow = self;
  memcpy(w->bytes, c->bytes + c->at, size);
  uv_buf_t buf = uv_buf_init(w->bytes, (unsigned)size);
  c->at += size;
  self->queued -= size;
  self->passed += size;
  self->link->proxy->counts.passed[self->to] += size;
  if (c->at == c->size) {
    self->first = c->next;
    if (self->first == NULL) self->last = NULL;
    free(c);
  }
  self->writing = true;
  if (uv_write(&w->request, &self->link->ends[self->to].any, &buf, 1, on_written) != 0) {
    free(w);
    link_reset(self->link);
    return;
  }
  read_on(self->link, other(self->to));
}

static bool reached(uint64_t limit, uint64_t passed) {
  return limit > 0 && passed >= limit;
}

static void pump(flow *self) {
  proxy_link *on = self->link;
  const shape *how = shape_of(self);
  if (on->closing || !on->open[self->to] || self->writing || self->finished) return;
  if (how->stall || reached(how->stall_after, self->passed)) return;
  if (reached(how->reset_after, self->passed)) {
    link_reset(on);
    return;
  }
  if (reached(how->finish_after, self->passed)) {
    finish(self);
    return;
  }
  if (self->first == NULL) return;
  double now = (double)uv_now(&on->proxy->loop);
  if (self->first->due > now) {
    pump_later(self, self->first->due - now);
    return;
  }
  if (self->first->end) {
    finish(self);
    return;
  }
  size_t size = allowance(self, how);
  if (size > 0) write_some(self, size);
}

/* ---- the beginning of a link ---- */

static void on_connected(uv_connect_t *request, int status) {
  proxy_link *self = request->data;
  if (self->closing) return;
  if (status < 0) {
    link_reset(self);
    return;
  }
  self->open[UP] = true;
  if (!self->local) uv_tcp_nodelay(&self->ends[UP].tcp, 1);
  read_on(self, UP);
  pump(&self->flows[UP]);
}

static void connect_upstream(proxy_link *self) {
  const target *to = &self->proxy->to;
  self->connecting.data = self;
  if (self->local) {
    uv_pipe_connect(&self->connecting, &self->ends[UP].pipe, to->address, on_connected);
    return;
  }
  struct sockaddr_storage address;
  if (uv_ip4_addr(to->address, to->port, (struct sockaddr_in *)&address) != 0 &&
      uv_ip6_addr(to->address, to->port, (struct sockaddr_in6 *)&address) != 0) {
    link_reset(self);
    return;
  }
  if (uv_tcp_connect(&self->connecting, &self->ends[UP].tcp, (struct sockaddr *)&address,
                     on_connected) != 0)
    link_reset(self);
}

void link_open(proxy *on, int client, bool silent) {
  proxy_link *self = take(sizeof *self);
  self->proxy = on;
  self->silent = silent;
  self->local = on->to.local;
  self->handles = HANDLES;
  self->next = on->links;
  if (self->next != NULL) self->next->previous = self;
  on->links = self;
  on->counts.open++;
  uv_tcp_init(&on->loop, &self->ends[DOWN].tcp);
  uv_tcp_open(&self->ends[DOWN].tcp, client);
  uv_tcp_nodelay(&self->ends[DOWN].tcp, 1);
  if (self->local)
    uv_pipe_init(&on->loop, &self->ends[UP].pipe, 0);
  else
    uv_tcp_init(&on->loop, &self->ends[UP].tcp);
  for (side s = UP; s <= DOWN; s++) {
    self->ends[s].any.data = self;
    self->flows[s].link = self;
    self->flows[s].to = s;
    uv_timer_init(&on->loop, &self->flows[s].timer);
    self->flows[s].timer.data = self;
  }
  self->open[DOWN] = true;
  if (silent) return;
  if (on->level->opened != NULL) self->state = on->level->opened(self);
  read_on(self, DOWN);
  if (!on->level->is_server) connect_upstream(self);
}

/* ---- all of them ---- */

void links_pump(proxy *on) {
  for (proxy_link *l = on->links, *next; l != NULL; l = next) {
    next = l->next;
    for (side s = UP; s <= DOWN; s++)
      pump(&l->flows[s]);
  }
}

void links_reset(proxy *on) {
  for (proxy_link *l = on->links; l != NULL; l = l->next)
    link_reset(l);
}

void links_finish(proxy *on, side to) {
  for (proxy_link *l = on->links; l != NULL; l = l->next)
    if (!l->closing && l->open[to]) finish(&l->flows[to]);
}
