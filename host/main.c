/* main.c: the program `nebula`. What the command line means is Lua: scripts/nebula/cli.lua. */
#include <stdio.h>
#include <stdlib.h>
#include "runtime.h"

int main(int argc, char **argv) {
  /* libuv's own 4 threads would let 4 calls of fsync at a time wait for the disk; a file system
   * writes its journal once for all that wait. The threads start at their first use. */
  setenv("UV_THREADPOOL_SIZE", "16", 0);
  runtime *host = runtime_new(argc, argv);
  if (host == NULL) return 1;
  int status = runtime_run(host);
  runtime_free(host);
  if (fflush(stdout) != 0 && status == 0) status = 1;
  return status;
}
