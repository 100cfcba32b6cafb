/* client.c: the meeting of libcurl's socket and timer callbacks with libuv's handles. */
#include "http/client.h"
#include "http/client_internal.h"

#include <stdlib.h>

/* One per socket that libcurl watches; lives until libuv's close callback. */
typedef struct socket_watch {
  uv_poll_t poll;
  http_client *client;
  curl_socket_t socket;
} socket_watch;

static void watch_closed(uv_handle_t *handle) {
  free(handle->data);
}

/* Hands the finished transfers to their owners. Their callbacks may start and free transfers. */
static void collect(http_client *self) {
  CURLMsg *message;
  int left;
  while (!self->closing && (message = curl_multi_info_read(self->multi, &left)) != NULL) {
    if (message->msg != CURLMSG_DONE) continue;
    http_transfer *transfer = NULL;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
    if (transfer->dropped) {
      http_transfer_destroy(transfer);
    } else {
      http_transfer_finish(transfer, message->data.result);
    }
  }
}

/* What callbacks inside of libcurl asked for, now that it can be called again. */
static void run_deferred(void *data) {
  http_client *self = data;
  for (http_transfer *transfer = self->first, *next; transfer != NULL; transfer = next) {
    next = transfer->next;
    if (transfer->dropped) {
      http_transfer_destroy(transfer);
    } else if (transfer->resume) {
      transfer->resume = false;
      http_transfer_resume(transfer);
    } else if (transfer->unwatched && !transfer->finished) {
      http_transfer_finish(transfer, CURLE_OUT_OF_MEMORY);
      next = self->first; /* its callback may have freed any */
    }
  }
}

static void act(http_client *self, curl_socket_t socket, int events) {
  int running;
  self->inside++;
  curl_multi_socket_action(self->multi, socket, events, &running);
  self->inside--;
  collect(self);
}

static void on_socket(uv_poll_t *poll, int status, int events) {
  socket_watch *watch = poll->data;
  int flags = 0;
  if (status < 0) flags |= CURL_CSELECT_ERR;
  if (events & UV_READABLE) flags |= CURL_CSELECT_IN;
  if (events & UV_WRITABLE) flags |= CURL_CSELECT_OUT;
  act(watch->client, watch->socket, flags);
}

static void on_timer(uv_timer_t *timer) {
  act(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

static socket_watch *watch_new(http_client *self, curl_socket_t socket) {
  socket_watch *watch = calloc(1, sizeof *watch);
  if (watch == NULL) return NULL;
  watch->client = self;
  watch->socket = socket;
  if (uv_poll_init_socket(&self->on->uv, &watch->poll, socket) != 0) {
    free(watch);
    return NULL;
  }
  watch->poll.data = watch;
  curl_multi_assign(self->multi, socket, watch);
  return watch;
}

static int watch_socket(CURL *easy, curl_socket_t socket, int what, void *data, void *known) {
  http_client *self = data;
  socket_watch *watch = known;
  if (what == CURL_POLL_REMOVE) {
    if (watch == NULL) return 0;
    curl_multi_assign(self->multi, socket, NULL);
    uv_poll_stop(&watch->poll);
    uv_close((uv_handle_t *)&watch->poll, watch_closed);
    return 0;
  }
  if (watch == NULL) watch = watch_new(self, socket);
  if (watch == NULL) { /* an error told to libcurl would be looked at only with the next event */
    http_transfer *transfer = NULL;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &transfer);
    transfer->unwatched = true;
    loop_defer(self->on, &self->deferred);
    return 0;
  }
  int events = 0;
  if (what & CURL_POLL_IN) events |= UV_READABLE;
  if (what & CURL_POLL_OUT) events |= UV_WRITABLE;
  return uv_poll_start(&watch->poll, events, on_socket) == 0 ? 0 : -1;
}

static int set_timer(CURLM *multi, long timeout_ms, void *data) {
  (void)multi;
  http_client *self = data;
  if (timeout_ms < 0) return uv_timer_stop(&self->timer) == 0 ? 0 : -1;
  uv_update_time(&self->on->uv); /* scripts may have computed since the turn began */
  /* A timer of 0 fires in the next turn, never from in here: libcurl is not re-entrant. */
  return uv_timer_start(&self->timer, on_timer, (uint64_t)timeout_ms, 0) == 0 ? 0 : -1;
}

http_client *http_client_new(loop *on) {
  http_client *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  /* Counted and thread-safe in this libcurl; paired with the cleanup in timer_closed. */
  if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
    free(self);
    return NULL;
  }
  self->multi = curl_multi_init();
  if (self->multi == NULL) {
    curl_global_cleanup();
    free(self);
    return NULL;
  }
  self->on = on;
  self->deferred = (loop_deferred){.run = run_deferred, .data = self};
  uv_timer_init(&on->uv, &self->timer);
  self->timer.data = self;
  curl_multi_setopt(self->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
  curl_multi_setopt(self->multi, CURLMOPT_SOCKETDATA, self);
  curl_multi_setopt(self->multi, CURLMOPT_TIMERFUNCTION, set_timer);
  curl_multi_setopt(self->multi, CURLMOPT_TIMERDATA, self);
  curl_multi_setopt(self->multi, CURLMOPT_MAXCONNECTS, 128L);
  return self;
}

loop *http_client_loop(http_client *self) {
  return self->on;
}

void http_client_recycle(http_client *self, CURL *easy) {
  if (!self->closing && self->spares < HTTP_SPARE_HANDLES) {
    curl_easy_reset(easy);
    self->spare[self->spares++] = easy;
  } else {
    curl_easy_cleanup(easy);
  }
}

static void timer_closed(uv_handle_t *handle) {
  free(handle->data);
  curl_global_cleanup();
}

void http_client_close(http_client *self) {
  if (self->closing) return;
  self->closing = true;
  /* A callback may free its own transfer or another: look from the start each time. */
  for (http_transfer *transfer = self->first; transfer != NULL;) {
    if (transfer->finished) {
      transfer = transfer->next;
    } else {
      http_transfer_finish(transfer, CURLE_ABORTED_BY_CALLBACK);
      transfer = self->first;
    }
  }
  for (http_transfer *transfer = self->first, *next; transfer != NULL; transfer = next) {
    next = transfer->next;
    if (transfer->dropped) {
      http_transfer_destroy(transfer);
    } else {
      transfer->client = NULL; /* its owner frees it later */
    }
  }
  loop_defer_cancel(self->on, &self->deferred);
  while (self->spares > 0)
    curl_easy_cleanup(self->spare[--self->spares]);
  curl_multi_cleanup(self->multi);
  uv_close((uv_handle_t *)&self->timer, timer_closed);
}
