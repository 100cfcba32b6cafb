/* process.h: child processes in the loop, with pipes or a pseudo-terminal: plain C over uv_spawn.
 *
 * A `process` is malloc'd by process_spawn and lives until process_release was called and every
 * libuv handle of it has run its close callback. Everything runs on the loop's thread. */
#ifndef NEBULA_HOST_PROCESS_H
#define NEBULA_HOST_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

typedef struct process process;

/* Called when something changed: output arrived, a stream ended, the child ended. */
typedef void process_changed_fn(void *data);

typedef enum process_stdio {
  PROCESS_NULL,    /* /dev/null */
  PROCESS_INHERIT, /* the host's own */
  PROCESS_PIPE,    /* read (stdin: written) through this process object */
  PROCESS_FILE,    /* a path: read for stdin, appended to otherwise */
  PROCESS_STDOUT,  /* stderr alone: wherever stdout goes */
} process_stdio;

typedef struct process_options {
  const char *file; /* looked up in PATH unless it holds a slash */
  char **args;      /* NULL-terminated, args[0] is the program's name */
  char **env;       /* NULL-terminated, or NULL for the host's own */
  const char *cwd;  /* or NULL */
  bool set_ids;     /* then uid and gid are taken on, supplementary groups dropped */
  uv_uid_t uid;
  uv_gid_t gid;
  bool detached; /* a session of its own: survives the host and its terminal */
  process_stdio stdio[3];
  const char *paths[3]; /* of PROCESS_FILE */
  bool pty;             /* all three are a pseudo-terminal; stdio[] is not looked at */
  unsigned short rows, columns;
} process_options;

typedef enum process_stream { PROCESS_OUT, PROCESS_ERR } process_stream;

/* Returns 0 and sets *out, or a negative libuv error and leaves nothing behind. `failed` names what
 * could not be done ("open /x/log", or the program's name): valid until the next call on options.
 */
int process_spawn(uv_loop_t *loop, const process_options *options, process_changed_fn *changed,
                  void *data, process **out, const char **failed);

int process_pid(const process *self);

/* True once the child has ended; then its exit status, or the signal that ended it. */
bool process_ended(const process *self, int64_t *status, int *signal);

/* Sends a signal; UV_ESRCH once it has ended. */
int process_kill(process *self, int signal);

/* What has arrived and was not consumed. Empty and `ended` means the end of the stream. */
const char *process_peek(const process *self, process_stream stream, size_t *length, bool *ended);
void process_consume(process *self, process_stream stream, size_t length);

/* Without a bound a stream is read only as far as it is consumed (256 KiB ahead); with one it is
 * collected up to `bytes`, after which it pauses. */
void process_collect(process *self, process_stream stream, size_t bytes);

/* True where the stream stands paused with at least `bytes` unread. */
bool process_full(const process *self, process_stream stream, size_t bytes);

/* Queues bytes for the child's stdin (copied). Negative on failure. */
int process_write(process *self, const char *bytes, size_t length);

/* Closes the child's stdin once what is queued has been written. */
void process_end_input(process *self);

/* Tells a pseudo-terminal its size. */
int process_resize(process *self, unsigned short rows, unsigned short columns);

/* Closes every handle; no callback comes afterwards. A child that still runs goes on. */
void process_release(process *self);

#endif
