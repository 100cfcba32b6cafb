/* signals.h: POSIX signals for the loop and for a Lua state that is too busy to turn it.
 *
 * Signals belong to the process, so this is the one unit of the host with static state. A handler
 * notes the signal, wakes the loop, and calls `urgent` at once, inside the handler: what that does
 * must be async-signal-safe (asking the Lua state for an interrupt is). */
#ifndef NEBULA_HOST_SIGNALS_H
#define NEBULA_HOST_SIGNALS_H

#include <stdbool.h>
#include <uv.h>

typedef void signals_fn(void *data, int number);

/* `arrived` runs from the loop, once for each noted signal; `urgent` inside the signal handler.
 * Ignores SIGPIPE and SIGXFSZ: a broken pipe and a file-size limit are errors of the write. Returns
 * 0 or a libuv error. */
int signals_open(uv_loop_t *loop, signals_fn *arrived, signals_fn *urgent, void *data);

/* Notes this signal from now on; SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT and SIGWINCH.
 */
int signals_watch(int number);

/* Gives the signal its default action again. */
void signals_forget(int number);

/* Whether `urgent` is called for this signal; at first it is for none. */
void signals_urgent(int number, bool urgent);

/* Whether a wait for a signal alone is a wait for something: at first it is not, and the loop then
 * knows that nothing can come. */
void signals_keep(bool keep);

/* Every watched signal has its default action again; the loop's handle closes. */
void signals_close(void);

#endif
