/* loop.c: a turn's poll, pooled timers and deferred calls. The contract is in loop.h. */
#include "async/loop.h"

#include <stdlib.h>

struct loop_timer {
  uv_timer_t handle; /* handle.data is the loop */
  loop_fn *run;
  void *data;
  loop_timer *next_idle;
};

int loop_init(loop *self) {
  *self = (loop){0};
  int status = uv_loop_init(&self->uv);
  if (status != 0) return status;
  self->uv.data = self;
  return 0;
}

static void timer_freed(uv_handle_t *handle) {
  free(handle);
}

/* A pooled timer lies idle when nothing is set to run. Closing it frees it. */
static void timer_recycle(loop *self, loop_timer *timer) {
  timer->run = NULL;
  timer->next_idle = self->idle_timers;
  self->idle_timers = timer;
}

static void timer_fired(uv_timer_t *handle) {
  loop_timer *timer = (loop_timer *)handle;
  loop_fn *run = timer->run;
  void *data = timer->data;
  timer_recycle(handle->data, timer);
  run(data);
}

loop_timer *loop_timer_start(loop *self, double seconds, loop_fn *run, void *data) {
  loop_timer *timer = self->idle_timers;
  if (timer != NULL) {
    self->idle_timers = timer->next_idle;
  } else {
    timer = malloc(sizeof *timer);
    if (timer == NULL) return NULL;
    uv_timer_init(&self->uv, &timer->handle);
    timer->handle.data = self;
  }
  timer->run = run;
  timer->data = data;
  /* libuv counts from the time it read when the turn's callbacks began; scripts may have computed
   * since. Rounding up keeps "at least". 2^53 ms is the end of any deadline that a double counts.
   */
  uv_update_time(&self->uv);
  double ms = seconds * 1000.0;
  uint64_t timeout_ms = 0;
  if (ms >= 9007199254740992.0) {
    timeout_ms = 9007199254740992u;
  } else if (ms > 0) {
    timeout_ms = (uint64_t)ms;
    if ((double)timeout_ms < ms) timeout_ms++;
  }
  uv_timer_start(&timer->handle, timer_fired, timeout_ms, 0);
  return timer;
}

void loop_timer_stop(loop *self, loop_timer *timer) {
  if (timer == NULL) return;
  uv_timer_stop(&timer->handle);
  timer_recycle(self, timer);
}

void loop_stay_awake(loop *self) {
  if (self->polling) uv_stop(&self->uv);
}

void loop_defer(loop *self, loop_deferred *call) {
  if (call->queued) return;
  loop_stay_awake(self);
  call->queued = true;
  call->turn = self->turn;
  call->next = NULL;
  if (self->deferred_last != NULL) {
    self->deferred_last->next = call;
  } else {
    self->deferred_first = call;
  }
  self->deferred_last = call;
}

void loop_defer_cancel(loop *self, loop_deferred *call) {
  if (!call->queued) return;
  loop_deferred *before = NULL;
  for (loop_deferred *at = self->deferred_first; at != NULL; before = at, at = at->next) {
    if (at != call) continue;
    if (before != NULL) {
      before->next = call->next;
    } else {
      self->deferred_first = call->next;
    }
    if (self->deferred_last == call) self->deferred_last = before;
    break;
  }
  call->queued = false;
}

void loop_run_deferred(loop *self) {
  self->turn++;
  while (self->deferred_first != NULL && self->deferred_first->turn < self->turn) {
    loop_deferred *call = self->deferred_first;
    self->deferred_first = call->next;
    if (self->deferred_first == NULL) self->deferred_last = NULL;
    call->queued = false;
    call->run(call->data);
  }
}

/* ---- jobs ---- */

enum { JOBS_TOGETHER = 8, JOB_THREADS_MOST = 8 };

static void hand_over(loop *self);

static void jobs_run(uv_work_t *work) {
  for (loop_job *job = work->data; job != NULL; job = job->next)
    job->run(job);
}

static void jobs_done(uv_work_t *work, int status) {
  (void)status;
  loop *self = work->loop->data;
  loop_job *job = work->data;
  self->jobs_threads--;
  hand_over(self);
  while (job != NULL) {
    loop_job *next = job->next;
    job->done(job);
    job = next;
  }
}

static void hand_over(loop *self) {
  while (self->jobs_waiting > 0) {
    bool many = self->jobs_waiting >= JOBS_TOGETHER && self->jobs_threads < JOB_THREADS_MOST;
    if (self->jobs_threads > 0 && !many) return;
    loop_job *first = self->jobs_first, *last = first;
    int count = 1;
    for (; count < JOBS_TOGETHER && last->next != NULL; count++)
      last = last->next;
    self->jobs_first = last->next;
    if (last->next == NULL) self->jobs_last = NULL;
    last->next = NULL;
    self->jobs_waiting -= count;
    self->jobs_threads++;
    first->work.data = first;
    uv_queue_work(&self->uv, &first->work, jobs_run, jobs_done);
  }
}

void loop_job_start(loop *self, loop_job *job) {
  job->next = NULL;
  if (self->jobs_last != NULL) {
    self->jobs_last->next = job;
  } else {
    self->jobs_first = job;
  }
  self->jobs_last = job;
  self->jobs_waiting++;
  hand_over(self);
}

bool loop_poll(loop *self, bool wait) {
  bool block = wait && self->deferred_first == NULL;
  self->polling = true;
  bool alive = uv_run(&self->uv, block ? UV_RUN_ONCE : UV_RUN_NOWAIT) != 0;
  self->polling = false;
  return alive || self->deferred_first != NULL;
}

typedef struct close_walk {
  loop *self;
  int leaked;
} close_walk;

static void close_leaked(uv_handle_t *handle, void *argument) {
  close_walk *walk = argument;
  if (uv_is_closing(handle)) return;
  if (handle->type == UV_TIMER && ((uv_timer_t *)handle)->timer_cb == timer_fired) {
    uv_close(handle, timer_freed);
    return;
  }
  walk->leaked++;
  uv_close(handle, NULL);
}

int loop_close(loop *self) {
  for (loop_timer *timer = self->idle_timers; timer != NULL;) {
    loop_timer *next = timer->next_idle;
    uv_close((uv_handle_t *)&timer->handle, timer_freed);
    timer = next;
  }
  self->idle_timers = NULL;
  /* What the owners have begun to close ends by itself; only what is left then has leaked. */
  do {
    loop_run_deferred(self);
    uv_run(&self->uv, UV_RUN_NOWAIT);
  } while (self->deferred_first != NULL);
  close_walk walk = {.self = self, .leaked = 0};
  uv_walk(&self->uv, close_leaked, &walk);
  uv_run(&self->uv, UV_RUN_DEFAULT);
  uv_loop_close(&self->uv);
  return walk.leaked;
}
