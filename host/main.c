/* main.c: the program `nebula`. What the command line means is Lua: scripts/nebula/cli.lua. */
#include <stdio.h>
#include "runtime.h"

int main(int argc, char **argv) {
  runtime *host = runtime_new(argc, argv);
  if (host == NULL) return 1;
  int status = runtime_run(host);
  runtime_free(host);
  if (fflush(stdout) != 0 && status == 0) status = 1;
  return status;
}
