/* loop.h: the one event loop of a Lua state: libuv, plus what hangs off it.
 *
 * Plain C modules get a `loop *`, use `loop->uv` with libuv's own calls, and may use the services
 * below; the first two exist because libuv's handles need a close callback each:
 *
 *   timers    from a pool, so that starting and stopping one allocates nothing in the steady state
 *   deferred  calls made once at the end of the current turn, after ready tasks ran and before the
 *             loop polls again: the place to flush what many tasks have queued
 *   jobs      short blocking work, of which a thread of libuv's pool gets several at a time:
 *             waking one costs as much as writing a small file
 *
 * A turn is: run ready tasks, run deferred calls, poll and run libuv's callbacks. All of it happens
 * on the thread that owns the Lua state. */
#ifndef NEBULA_ASYNC_LOOP_H
#define NEBULA_ASYNC_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

typedef struct loop loop;
typedef struct loop_timer loop_timer;
typedef void loop_fn(void *data);

typedef struct loop_deferred {
  loop_fn *run;
  void *data;
  struct loop_deferred *next;
  uint64_t
      turn; /* in which it was queued: it runs at the end of that turn, not later in the same */
  bool queued;
} loop_deferred;

typedef struct loop_job {
  void (*run)(struct loop_job *self);  /* on a thread of the pool */
  void (*done)(struct loop_job *self); /* on the loop's; may free it */
  struct loop_job *next;
  uv_work_t work; /* of the first of those that go together */
} loop_job;

struct loop {
  uv_loop_t uv; /* uv.data points back here */
  loop_timer *idle_timers;
  loop_deferred *deferred_first, *deferred_last;
  loop_job *jobs_first, *jobs_last; /* those that wait */
  int jobs_waiting, jobs_threads;   /* their number; threads at work */
  uint64_t turn;
  bool polling;
};

/* Returns 0 or a libuv error. */
int loop_init(loop *self);

/* Turns the loop until every handle's close callback has run, then frees it. What is still open and
 * is not a timer of the pool is the bug of its owner: it is closed, and counted in the return. */
int loop_close(loop *self);

/* Calls run(data) once after at least `seconds`, from the loop. The handle is valid until it fires
 * or is stopped, whichever comes first. NULL on a lack of memory. */
loop_timer *loop_timer_start(loop *self, double seconds, loop_fn *run, void *data);

/* Safe with NULL. Never call it for a timer that has fired: clear your pointer in its callback. */
void loop_timer_stop(loop *self, loop_timer *timer);

/* Queues the call for the end of this turn; a call that is queued already stays queued once. */
void loop_defer(loop *self, loop_deferred *call);

/* Takes a queued call out again; its memory may be freed afterwards. */
void loop_defer_cancel(loop *self, loop_deferred *call);

/* Runs the job, and then done. While a thread is at work on others it waits for them, unless so
 * many wait that one more thread is worth its while. */
void loop_job_start(loop *self, loop_job *job);

/* Keeps the poll that is under way, if there is one, from blocking: there is work for this thread.
 * libuv runs due timers before it computes how long to block, so a callback may find such work. */
void loop_stay_awake(loop *self);

/* The two last thirds of a turn. Polling blocks only where `wait` is true and nothing is deferred;
 * it returns false where nothing is left that could ever call back. */
void loop_run_deferred(loop *self);
bool loop_poll(loop *self, bool wait);

#endif
