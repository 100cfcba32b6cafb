/* task_internal.h: what the files of async/ share: the scheduler, the task, the boundary.
 *
 * A task is a coroutine whose body runs under lua_pcallk. It is in one of four states, and has at
 * most one pending wait. An *interrupt* (a cancel, a deadline, a failed sibling) names a boundary:
 * the whole task, or a `boundary` that lua_scope.c put on its stack. It becomes an error at the
 * task's next wait point, once; on its way to the boundary no pcall keeps it. What unwinds may wait
 * in its turn, for CLEANUP_SECONDS; after that every instruction of the task raises, up to the
 * boundary. */
#ifndef NEBULA_ASYNC_TASK_INTERNAL_H
#define NEBULA_ASYNC_TASK_INTERNAL_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <lua.h>
#include "async/loop.h"
#include "async/task.h"

#define CLEANUP_SECONDS 5.0
#define TASK_METATABLE "nebula.task"

typedef struct task task;
typedef struct boundary boundary;

/* A place in somebody's queue; lives in the waiting coroutine's stack as a userdata. */
typedef struct waiter {
  task_ticket ticket;
  struct waiter *next, *previous;
  struct waiter_list *list; /* NULL once it was woken or has left */
} waiter;

typedef struct waiter_list {
  waiter *first, *last;
  size_t count;
} waiter_list;

typedef enum interrupt_reason {
  INTERRUPT_NONE,
  INTERRUPT_CANCEL,   /* Task:cancel, the end of the program */
  INTERRUPT_SIGNAL,   /* Ctrl-C */
  INTERRUPT_DEADLINE, /* nebula.task.deadline */
  INTERRUPT_SIBLING,  /* a child of the scope failed */
  INTERRUPT_DEADLOCK, /* the main task waits for something that cannot come */
} interrupt_reason;

/* A frame of scope or deadline: a userdata on the stack of the coroutine that called it. */
struct boundary {
  scheduler *scheduler;
  lua_State *thread; /* that coroutine: compared while it is on the task's path, never followed */
  task *owner;       /* NULL outside of tasks, while its generator is suspended, and once left */
  boundary *outer;
  bool entered; /* and not left */
  interrupt_reason interrupted;
  double seconds; /* of a deadline */
  uint64_t due_ns;
  loop_timer *timer;
  /* of a scope: */
  task *children;
  size_t living;
  bool closed;    /* takes no more children */
  bool cancelled; /* from outside, or by its body's error: what comes now is cancelled too */
  bool body_failed;
  bool failed; /* a child failed before the body did; the uservalue is its Task */
  task_ticket joiner;
};

typedef enum task_state { TASK_READY, TASK_RUNNING, TASK_WAITING, TASK_ENDED } task_state;
typedef enum unwind_state { UNWIND_NONE, UNWIND_PENDING, UNWIND_RAISED } unwind_state;

/* A generator that is being closed: a userdata on the stack of who closes it. */
typedef struct closing {
  scheduler *scheduler;
  lua_State *thread;
  uint64_t raised_serial; /* 0: TASK_KILL has not been raised yet; see task_protect_enter */
  struct closing *outer;
} closing;

/* The pending wait. A main chunk outside of tasks has one of its own in the scheduler. */
typedef struct wait_state {
  uint32_t generation;
  bool woken;
  bool shielded; /* an interrupt abandons, but the task goes on waiting for the wake */
  const char *what;
  lua_State *thread;
  task_abandon_fn *abandon;
  void *data;
  lua_KContext context;
  lua_KFunction done;
} wait_state;

/* uservalues of the userdata: 1 the coroutine (its stack holds the results after the end),
 * 2 the scope's boundary */
struct task {
  scheduler *owner;
  lua_State *thread;
  uint64_t id;
  uint64_t born_ns;
  uint32_t slot;
  task_state state;
  bool failed;   /* the body ended with an error, which is on top of the thread's stack */
  bool observed; /* somebody has seen that error */
  bool cancelled_end;
  bool expired;    /* its cleanup took too long */
  unsigned pinned; /* resumes through C frames that cannot yield */
  wait_state wait;
  task *next_ready;
  waiter_list joiners;

  unwind_state unwinding;
  interrupt_reason cancelled; /* the interrupt of the whole task */
  boundary *boundaries;       /* on its path, innermost first */
  boundary *target;           /* of the unwinding; NULL is the whole task */
  uint64_t raised_serial;     /* of the interrupt that unwinds; see task_protect_enter */
  const void *raised;         /* the error that unwinds; compared, never followed */
  loop_timer *cleanup;
  uint64_t cleanup_due_ns; /* 0: no clean-up is under way */

  boundary *scope;
  task *sibling_next, *sibling_previous;
};

typedef struct task_slot {
  task *task;
  uint32_t generation_base; /* a new task in the slot starts past every ticket of the last one */
  uint32_t next_free;
} task_slot;

struct scheduler {
  loop loop;
  lua_State *work; /* a thread that nobody else runs: `from` of every resume, room for values */
  task_slot *slots;
  uint32_t slot_count, slot_free;
  task *ready_first, *ready_last;
  task *running;
  task *foreground;
  size_t living;
  uint64_t last_id;
  wait_state outside;      /* the wait of a main chunk that is no task: slot 0 */
  uint64_t protect_serial; /* counts protected calls */
  closing *closings;
  bool turning;
  bool closed;    /* the state closes, the loop is gone */
  bool ending;    /* the program ends: what is spawned now is cancelled */
  bool returning; /* what the turning caller waits for may have come: this turn does not block */
  uintptr_t stack_base; /* of the C stack, where the running task was resumed */
  int limits;           /* deadlines and clean-ups under way */
  void (*watch)(bool on);
  lua_State *volatile running_thread; /* for the signal handler */
  volatile sig_atomic_t interrupted;
};

/* The error (a light userdata) that closes a generator; see lua_coroutine.c. */
extern const char TASK_KILL;

scheduler *task_scheduler(lua_State *L);

/* The task that L belongs to and that runs now, or NULL. */
task *task_of(lua_State *L);
void task_adopt(lua_State *L, task *owner);

/* Pushes the Task userdata of a living task. */
void task_push(lua_State *L, const task *self);

/* task_spawn, with the scope that owns the child at index `scope` of the stack (0: none). */
task *task_create(lua_State *L, int nargs, int scope);

/* Asks that an error unwinds the task to its body, or to the boundary: where that lies in a
 * suspended generator, once the generator goes on. */
void task_interrupt(task *self, interrupt_reason why);
void boundary_interrupt(boundary *self, interrupt_reason why);

/* Calls the pending wait's abandon where nothing has woken it, and makes the task ready to raise.
 */
void task_abandon_wait(task *self);

/* Its clean-up has had its time: from now on its every instruction raises. */
void task_expire(task *self);
void task_cleanup_stop(task *self);

/* Raises the pending interrupt, if there is one. Call at the wait points alone. */
void task_check_interrupt(lua_State *L, task *self);

/* Like task_wait_begin, but raises no pending interrupt: look for one yourself. */
task_ticket task_wait_begin_shielded(lua_State *L, const char *what);

/* Like task_wait, but an interrupt only runs abandon and leaves the task waiting: `done` runs in
 * any case and calls task_check_interrupt itself. */
int task_wait_shielded(lua_State *L, task_ticket ticket, task_abandon_fn *abandon, void *data,
                       lua_KContext context, lua_KFunction done);

/* A protected call that lets interrupts through: enter gives its serial; after an error was caught,
 * caught() raises it again where an interrupt, or the closing of this coroutine, was raised inside
 * the call. Serials grow with time, so a call inside was entered no later than the raise. */
lua_KContext task_protect_enter(lua_State *L);
void task_protect_caught(lua_State *L, lua_KContext serial);

/* Puts the interrupt that unwinds to the boundary back in the place of an error on top of the stack
 * that a clean-up raised on the way; that one becomes its detail. */
void task_keep_interrupt(lua_State *L, task *self, const boundary *to);

/* An interrupt is on its way through the coroutine that runs. */
bool task_unwinds_through(const task *self);

/* The closing of the coroutine L, or NULL; raising what it unwinds with. */
closing *closing_of(lua_State *L);
_Noreturn void closing_raise(lua_State *L);

/* True inside a __gc handler: its errors are swallowed, and it may run in anybody's task. */
bool task_in_finalizer(lua_State *L);

void boundary_enter(lua_State *L, boundary *self);
/* Unlinks it; true where the unwinding was meant for it, and is over with this. */
bool boundary_leave(boundary *self);

/* A generator gave a value: its boundaries leave the path of the task; returns them as a chain. */
boundary *boundary_sleep(task *owner, lua_State *thread);
/* It goes on: they are on the path of this task. Where it is being closed they have no effect. */
void boundary_resume(task *owner, boundary *chain, bool closes);

/* Turns the loop once. False where nothing can ever wake anybody. */
bool task_turn(scheduler *self, bool wait);

void task_hook_arm(lua_State *L);

/* Notes which thread runs (NULL: none), for the hook; an interrupt that came before is not lost. */
void task_run_on(scheduler *s, lua_State *thread);

void waiter_append(waiter_list *list, waiter *self, task_ticket ticket);
void waiter_leave(void *self);
bool waiter_wake_first(waiter_list *list);
void waiter_wake_all(waiter_list *list);
/* Pushes a waiter on the stack. */
waiter *waiter_new(lua_State *L);

void task_open_coroutine(lua_State *L);
void task_open_scope(lua_State *L);
void task_open_channel(lua_State *L);

#endif
