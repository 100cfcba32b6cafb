/* watchdog.h: makes Lua code that computes look at its deadlines, which need the loop to turn.
 *
 * While any deadline or clean-up is under way, a POSIX timer sends this thread a real-time signal
 * every TICK_MS; its handler asks the Lua code that runs for one look. Nothing ticks otherwise. */
#ifndef NEBULA_HOST_WATCHDOG_H
#define NEBULA_HOST_WATCHDOG_H

#include "async/task_host.h"

/* Call on the loop's thread. Returns 0 or a libuv error. */
int watchdog_open(scheduler *watched);

void watchdog_close(void);

#endif
