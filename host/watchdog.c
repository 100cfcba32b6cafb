/* watchdog.c: see watchdog.h. A signal handler has no argument, hence the static state. */
#include "watchdog.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#define TICK_MS 50

static struct {
  scheduler *watched;
  timer_t timer;
  bool open;
} watchdog;

static void on_tick(int number) {
  (void)number;
  task_host_tick(watchdog.watched);
}

static void watch(bool on) {
  struct itimerspec every = {0};
  if (on) every.it_interval.tv_nsec = every.it_value.tv_nsec = TICK_MS * 1000000L;
  timer_settime(watchdog.timer, 0, &every, NULL);
}

int watchdog_open(scheduler *watched) {
  int number = SIGRTMIN;
  struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  watchdog.watched = watched;
  if (sigaction(number, &action, NULL) < 0) return -errno;
  struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = number};
  event._sigev_un._tid = gettid();
  if (timer_create(CLOCK_MONOTONIC, &event, &watchdog.timer) < 0) return -errno;
  watchdog.open = true;
  task_host_watch(watched, watch);
  return 0;
}

void watchdog_close(void) {
  if (!watchdog.open) return;
  watchdog.open = false;
  task_host_watch(watchdog.watched, NULL);
  timer_delete(watchdog.timer);
  signal(SIGRTMIN, SIG_IGN);
}
