/* skewed_clock.c: preloaded into a program, its wall clock is wrong by NEBULA_SPEC_SKEW seconds.
 * The monotonic clock goes on as it is, as on a machine whose clock was set wrong. */
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

typedef int clock_fn(clockid_t, struct timespec *);

static time_t skew(void) {
  const char *seconds = getenv("NEBULA_SPEC_SKEW");
  return seconds != NULL ? (time_t)strtol(seconds, NULL, 10) : 0;
}

__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, struct timespec *now) {
  static clock_fn *real;
  if (real == NULL) *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
  int rc = real(clock, now);
  if (rc == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += skew();
  return rc;
}

__attribute__((visibility("default"))) time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at != NULL) *at = now.tv_sec;
  return now.tv_sec;
}

__attribute__((visibility("default"))) int gettimeofday(struct timeval *now, void *zone) {
  (void)zone;
  struct timespec fine;
  clock_gettime(CLOCK_REALTIME, &fine);
  *now = (struct timeval){.tv_sec = fine.tv_sec, .tv_usec = fine.tv_nsec / 1000};
  return 0;
}
