/* signals.c: sigaction sets a flag and wakes the loop with uv_async_send, which is the one libuv
 * call that a signal handler may make. libuv's own uv_signal never fires while Lua computes. */
#include "signals.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

enum { SIGNALS_MOST = 32, UNSERVED_MOST = 3 };

static struct {
  uv_async_t wake;
  volatile sig_atomic_t open, unserved, noted[SIGNALS_MOST], urgent_for[SIGNALS_MOST];
  bool watched[SIGNALS_MOST];
  pthread_t thread; /* the loop's */
  signals_fn *arrived, *urgent;
  void *data;
} signals;

/* Somebody who presses Ctrl-C three times while the loop does not turn wants out. */
static void on_signal(int number) {
  int saved = errno;
  if (!pthread_equal(pthread_self(), signals.thread)) { /* the kernel chooses among the threads */
    pthread_kill(signals.thread, number);
    errno = saved;
    return;
  }
  signals.noted[number] = 1;
  if (number == SIGINT && ++signals.unserved >= UNSERVED_MOST) _exit(128 + number);
  if (signals.open) {
    if (signals.urgent_for[number]) signals.urgent(signals.data, number);
    uv_async_send(&signals.wake);
  }
  errno = saved;
}

static void on_wake(uv_async_t *handle) {
  (void)handle;
  signals.unserved = 0;
  for (int number = 1; number < SIGNALS_MOST; number++) {
    if (!signals.noted[number]) continue;
    signals.noted[number] = 0;
    signals.arrived(signals.data, number);
  }
}

int signals_open(uv_loop_t *loop, signals_fn *arrived, signals_fn *urgent, void *data) {
  int rc = uv_async_init(loop, &signals.wake, on_wake);
  if (rc < 0) return rc;
  uv_unref((uv_handle_t *)&signals.wake); // alone it keeps nobody waiting
  signals.arrived = arrived;
  signals.urgent = urgent;
  signals.data = data;
  signals.thread = pthread_self();
  signals.open = 1;
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
  return 0;
}

int signals_watch(int number) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  if (number <= 0 || number >= SIGNALS_MOST) return UV_EINVAL;
  sigemptyset(&action.sa_mask);
  if (sigaction(number, &action, NULL) < 0) return -errno;
  signals.watched[number] = true;
  return 0;
}

void signals_forget(int number) {
  if (number <= 0 || number >= SIGNALS_MOST || !signals.watched[number]) return;
  signals.watched[number] = false;
  signal(number, SIG_DFL);
}

void signals_urgent(int number, bool urgent) {
  if (number > 0 && number < SIGNALS_MOST) signals.urgent_for[number] = urgent;
}

void signals_keep(bool keep) {
  (keep ? uv_ref : uv_unref)((uv_handle_t *)&signals.wake);
}

void signals_close(void) {
  if (!signals.open) return;
  signals.open = 0;
  for (int number = 1; number < SIGNALS_MOST; number++)
    signals_forget(number);
  uv_close((uv_handle_t *)&signals.wake, NULL);
}
