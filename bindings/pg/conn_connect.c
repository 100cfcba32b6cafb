/* conn_connect.c: from a configuration to an open session: names, addresses, libpq's handshake. */
#include "pg/conn.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include "pg/copy.h"

/* What a server may say before a session begins, and what libpq reads of it in one step. */
enum { HANDSHAKE_MAX = 1 << 20, HANDSHAKE_READ = 16384 };

static void on_poll_closed(uv_handle_t *handle) {
  free(handle);
}

void pg_conn_unwatch(pg_conn *self) {
  if (self->poll == NULL) return;
  self->poll->data = NULL;
  uv_close((uv_handle_t *)self->poll, on_poll_closed);
  self->poll = NULL;
  self->polled = 0;
}

static bool rewatch(pg_conn *self, int events, uv_poll_cb callback) {
  pg_conn_unwatch(self);
  self->poll = malloc(sizeof *self->poll);
  if (self->poll == NULL) return false;
  if (uv_poll_init(&self->loop->uv, self->poll, PQsocket(self->pg)) != 0) {
    free(self->poll);
    self->poll = NULL;
    return false;
  }
  self->poll->data = self;
  self->polled = events;
  return uv_poll_start(self->poll, events, callback) == 0;
}

static void on_ready(uv_poll_t *handle, int status, int events) {
  pg_conn *self = handle->data;
  if (self == NULL) return;
  if ((events & UV_WRITABLE) != 0) loop_defer(self->loop, &self->flush);
  /* libuv names every socket error EBADF; libpq reads the true one. */
  if (status < 0 || (events & (UV_READABLE | UV_DISCONNECT)) != 0) pg_conn_process(self);
  if (status < 0 && handle->data == self) {
    /* It has also stopped polling, while libpq may have read the server's last words alone. */
    self->polled = 0;
    pg_conn_watch(self, UV_READABLE);
  }
}

void pg_conn_watch(pg_conn *self, int events) {
  if (self->poll == NULL || events == self->polled) return;
  self->polled = events;
  if (events == 0)
    uv_poll_stop(self->poll);
  else
    uv_poll_start(self->poll, events, on_ready);
}

static void ignore_notice(void *data, const PGresult *result) {
  (void)data;
  (void)result;
}

static void on_handshake(uv_poll_t *handle, int status, int events);

/* libpq may use another socket after each step, so each step polls afresh. */
static void step(pg_conn *self) {
  switch (PQconnectPoll(self->pg)) {
  case PGRES_POLLING_READING:
    if (rewatch(self, UV_READABLE, on_handshake)) return;
    break;
  case PGRES_POLLING_WRITING:
    if (rewatch(self, UV_WRITABLE, on_handshake)) return;
    break;
  case PGRES_POLLING_OK:
    PQsetnonblocking(self->pg, 1);
    PQsetErrorVerbosity(self->pg, PQERRORS_DEFAULT);
    loop_timer_stop(self->loop, self->timer);
    self->timer = NULL;
    if (!rewatch(self, UV_READABLE, on_ready)) break;
    self->state = PG_CONN_READY;
    self->gathered = 0;
    self->events->ready(self);
    return;
  default: pg_conn_fail(self, PQerrorMessage(self->pg), NULL); return;
  }
  pg_conn_fail(self, "out of memory, or of file descriptors", NULL);
}

static void on_handshake(uv_poll_t *handle, int status, int events) {
  (void)status; /* libuv names every socket error EBADF; libpq reads the true one */
  (void)events;
  pg_conn *self = handle->data;
  if (self == NULL) return;
  int waiting = 0;
  if (ioctl(PQsocket(self->pg), FIONREAD, &waiting) == 0 && waiting > 0)
    self->gathered += (size_t)(waiting < HANDSHAKE_READ ? waiting : HANDSHAKE_READ);
  if (self->gathered > HANDSHAKE_MAX)
    pg_conn_fail(self, "the server sent too much before the session began", NULL);
  else
    step(self);
}

static void free_addresses(pg_conn *self) {
  if (self->addresses == NULL) return;
  for (size_t i = 0; i < self->hosts; i++) /* the configuration may be gone */
    uv_freeaddrinfo(self->addresses[i]);
  free(self->addresses);
  self->addresses = NULL;
}

/* Some host needs no look-up, or one was found. */
static bool reachable(const pg_conn *self) {
  for (size_t i = 0; i < self->hosts; i++)
    if (self->addresses[i] != NULL || !pg_config_host_is_name(self->config, i)) return true;
  return false;
}

static void start(pg_conn *self) {
  pg_config_params params;
  if (!reachable(self)) {
    pg_conn_fail(self, "none of the host names can be resolved", NULL);
    return;
  }
  if (!pg_config_params_make(self->config, self->addresses, self->first_host, &params)) {
    pg_conn_fail(self, "out of memory", NULL);
    return;
  }
  self->state = PG_CONN_CONNECTING;
  self->pg = PQconnectStartParams(params.keywords, params.values, 0);
  pg_config_params_free(&params);
  free_addresses(self);
  if (self->pg != NULL) {
    PQsetErrorVerbosity(self->pg, PQERRORS_VERBOSE); /* to see the SQLSTATE */
    PQsetNoticeReceiver(self->pg, ignore_notice, NULL);
  }
  if (self->pg == NULL)
    pg_conn_fail(self, "out of memory", NULL);
  else if (PQstatus(self->pg) == CONNECTION_BAD)
    pg_conn_fail(self, PQerrorMessage(self->pg), NULL);
  else if (!rewatch(self, UV_WRITABLE, on_handshake))
    pg_conn_fail(self, "out of memory, or of file descriptors", NULL);
}

static void resolve_next(pg_conn *self);

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found) {
  pg_conn *self = request->data;
  self->resolving = false;
  if (self->state == PG_CONN_CLOSED) {
    uv_freeaddrinfo(found);
    free_addresses(self);
    loop_defer(self->loop, &self->reap);
    return;
  }
  if (status != 0 && self->hosts == 1) {
    snprintf(self->error, sizeof self->error, "the host name %.80s cannot be resolved: %s",
             pg_config_host(self->config, 0), uv_strerror(status));
    pg_conn_fail(self, NULL, NULL);
    return;
  }
  self->addresses[self->resolved++] = found;
  resolve_next(self);
}

/* Looks up the hosts that are names, one after the other, then starts. */
static void resolve_next(pg_conn *self) {
  size_t n = self->hosts;
  while (self->resolved < n && !pg_config_host_is_name(self->config, self->resolved))
    self->resolved++;
  if (self->resolved == n) {
    start(self);
    return;
  }
  const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
  self->resolver.data = self;
  int failed = uv_getaddrinfo(&self->loop->uv, &self->resolver, on_resolved,
                              pg_config_host(self->config, self->resolved), NULL, &hints);
  if (failed != 0)
    pg_conn_fail(self, uv_strerror(failed), NULL);
  else
    self->resolving = true;
}

static void on_timeout(void *data) {
  pg_conn *self = data;
  self->timer = NULL;
  if (self->state == PG_CONN_CONNECTING) {
    self->first_host = pg_config_find_host(self->config, PQhost(self->pg), PQport(self->pg));
    self->unanswered = true;
  }
  pg_conn_fail(self, "the server did not answer in time", NULL);
}

static void on_reap(void *data) {
  pg_conn *self = data;
  if (self->resolving) return;
  free_addresses(self);
  pg_prepared_free(self->prepared);
  free(self);
}

static void on_flush(void *data) {
  pg_conn *self = data;
  if (self->state != PG_CONN_READY) return;
  int left = PQflush(self->pg);
  if (left < 0 || PQstatus(self->pg) == CONNECTION_BAD) {
    /* Sending found the connection broken, and libpq may have closed the socket, which then never
     * wakes us. What the server said before it closed is read first. */
    pg_conn_process(self);
    return;
  }
  pg_conn_watch(self, (left > 0 ? UV_WRITABLE : 0) | (self->paused ? 0 : UV_READABLE));
  const pg_request *head = self->sent.first;
  if (left == 0 && head != NULL && head->copy != NULL && head->copy->in)
    pg_copy_tell(self->sent.first);
}

static void on_start(void *data) {
  pg_conn *self = data;
  self->flush.run = on_flush;
  resolve_next(self);
}

pg_conn *pg_conn_open(loop *on, const pg_config *config, const pg_conn_events *events,
                      pg_pool *pool, double timeout, size_t prepared_max, size_t first_host) {
  pg_conn *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->loop = on;
  self->config = config;
  self->events = events;
  self->pool = pool;
  self->reap = (loop_deferred){.run = on_reap, .data = self};
  self->hosts = pg_config_hosts(config);
  self->first_host = first_host;
  self->addresses = calloc(self->hosts, sizeof *self->addresses);
  if (prepared_max > 0) self->prepared = pg_prepared_new(prepared_max);
  if (self->addresses == NULL || (prepared_max > 0 && self->prepared == NULL)) {
    free(self->addresses);
    pg_prepared_free(self->prepared);
    free(self);
    return NULL;
  }
  self->timer = loop_timer_start(on, timeout, on_timeout, self);
  /* From the next deferred call on, so that a failure never reports from inside the opening. */
  self->flush = (loop_deferred){.run = on_start, .data = self};
  loop_defer(on, &self->flush);
  return self;
}
