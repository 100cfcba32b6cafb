/* main.c: the program `nebula`. What the command line means is Lua: scripts/nebula/cli.lua. */
#include <errno.h>
#include <fcntl.h>
#include <mimalloc.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "runtime.h"

/* A standard descriptor that is closed would become the next file or socket that is opened, and
 * what is printed would go there. Held the wrong way round, its use fails as that of a closed one
 * does. */
static bool hold_standard_descriptors(void) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
    if (fcntl(fd, F_GETFD) != -1) continue;
    if (open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd) return false;
  }
  return true;
}

/* Whether standard output is a pipe that nobody reads any more, as head leaves it. */
static bool reader_has_left(void) {
  struct pollfd output = {.fd = STDOUT_FILENO, .events = POLLOUT};
  return poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
}

/* Says what was printed and not written. Returns the exit status. */
static int finish_output(int status) {
  int code = fflush(stdout) != 0 ? errno : 0;
  if (code == 0 && !ferror(stdout)) return status;
  if (reader_has_left()) return status;
  fprintf(stderr, "nebula: standard output: %s\n",
          code != 0 ? strerror(code) : "not everything could be written");
  return status == 0 ? EXIT_FAILURE : status;
}

#pragma weak mi_option_set /* a sanitizer's build has another allocator */
#if MI_MALLOC_VERSION >= 210
#define mi_option_decommit_delay mi_option_purge_delay
#endif

int main(int argc, char **argv) {
  if (!hold_standard_descriptors()) return EXIT_FAILURE;
  /* libuv's own 4 threads would let 4 calls of fsync at a time wait for the disk; a file system
   * writes its journal once for all that wait. The threads start at their first use. */
  setenv("UV_THREADPOOL_SIZE", "16", 0);
  /* Memory that is free for a while goes back to the system; after 25 ms, as is the default, a
   * steady load would give and take the same pages all the time. */
  if (mi_option_set != NULL) mi_option_set(mi_option_decommit_delay, 1000);
  runtime *host = runtime_new(argc, argv);
  if (host == NULL) return 1;
  int status = runtime_run(host);
  runtime_free(host);
  return finish_output(status);
}
