/* process.c: uv_spawn with the pipes, files and pseudo-terminals that admin scripts need. Output is
 * read ahead by a bounded amount, so that a chatty child waits instead of filling our memory. */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum { READ_AHEAD = 256 * 1024, READ_CHUNK = 64 * 1024 };

typedef struct output {
  uv_pipe_t pipe;
  process *owner;
  char *bytes;
  size_t begin, end, capacity, bound;
  bool open, reading, ended;
} output;

struct process {
  uv_process_t handle;
  uv_pipe_t input;
  output outputs[2];
  bool input_open, handle_open, released, ended;
  int open_handles, pty_fd;
  int64_t status;
  int signal;
  process_changed_fn *changed;
  void *data;
};

typedef struct pending_write {
  uv_write_t request;
  process *owner;
  char bytes[];
} pending_write;

static void handle_closed(process *self) {
  if (--self->open_handles > 0 || !self->released) return;
  free(self->outputs[0].bytes);
  free(self->outputs[1].bytes);
  free(self);
}

static void process_handle_closed(uv_handle_t *handle) {
  handle_closed(handle->data);
}

static void output_closed(uv_handle_t *handle) {
  output *out = handle->data;
  handle_closed(out->owner);
}

static void tell(process *self) {
  if (!self->released && self->changed != NULL) self->changed(self->data);
}

static void output_end(output *out) {
  if (!out->open) return;
  out->open = out->reading = false;
  out->ended = true;
  uv_close((uv_handle_t *)&out->pipe, output_closed);
}

static void output_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
  (void)suggested;
  output *out = handle->data;
  if (out->begin > 0 && (out->begin == out->end || out->begin > out->capacity / 2)) {
    memmove(out->bytes, out->bytes + out->begin, out->end - out->begin);
    out->end -= out->begin;
    out->begin = 0;
  }
  if (out->capacity - out->end < READ_CHUNK) {
    size_t capacity = out->capacity * 2 + READ_CHUNK;
    char *bytes = realloc(out->bytes, capacity);
    if (bytes == NULL) {
      *buffer = uv_buf_init(NULL, 0); // libuv reports ENOBUFS
      return;
    }
    out->bytes = bytes;
    out->capacity = capacity;
  }
  *buffer = uv_buf_init(out->bytes + out->end, READ_CHUNK);
}

/* A pseudo-terminal may hang up with output in it that is not there to be read yet when libuv
 * looks: it takes a short read and a hang-up for the end. Read to its own end, EIO, nothing is
 * lost. */
static void output_drain(output *out, int fd) {
  ssize_t count;
  do {
    uv_buf_t room;
    output_allocate((uv_handle_t *)&out->pipe, READ_CHUNK, &room);
    if (room.base == NULL) return;
    do
      count = read(fd, room.base, room.len);
    while (count < 0 && errno == EINTR);
    if (count > 0) out->end += (size_t)count;
  } while (count > 0);
}

static void output_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer) {
  (void)buffer;
  output *out = stream->data;
  if (count == 0) return;
  if (count > 0) {
    out->end += (size_t)count;
    if (out->end - out->begin >= out->bound) {
      uv_read_stop(stream);
      out->reading = false;
    }
  } else {
    if (out->owner->pty_fd >= 0) output_drain(out, out->owner->pty_fd);
    output_end(out); // the end, or EIO of a pseudo-terminal whose child has gone
  }
  tell(out->owner);
}

static void output_resume(output *out) {
  if (!out->open || out->reading || out->end - out->begin >= out->bound) return;
  out->reading = uv_read_start((uv_stream_t *)&out->pipe, output_allocate, output_read) == 0;
}

static void child_ended(uv_process_t *handle, int64_t status, int signal) {
  process *self = handle->data;
  self->ended = true;
  self->status = status;
  self->signal = signal;
  self->handle_open = false;
  uv_close((uv_handle_t *)handle, process_handle_closed);
  tell(self);
}

static void input_close(process *self) {
  if (!self->input_open) return;
  self->input_open = false;
  uv_close((uv_handle_t *)&self->input, process_handle_closed);
}

static int pipe_init(process *self, uv_loop_t *loop, uv_pipe_t *pipe, void *data) {
  int rc = uv_pipe_init(loop, pipe, 0);
  if (rc < 0) return rc;
  pipe->data = data;
  self->open_handles++;
  return 0;
}

static int output_init(process *self, uv_loop_t *loop, int index) {
  output *out = &self->outputs[index];
  int rc = pipe_init(self, loop, &out->pipe, out);
  if (rc == 0) out->open = true;
  return rc;
}

/* Opens what stdio[index] names into *container; fds opened here are added to `opened`. */
static int stdio_prepare(process *self, uv_loop_t *loop, const process_options *options, int index,
                         uv_stdio_container_t *container, int opened[3], const char **failed) {
  process_stdio kind = options->stdio[index];
  const char *path = options->paths[index];
  int rc = 0;
  switch (kind) {
  case PROCESS_NULL: container->flags = UV_IGNORE; break;
  case PROCESS_INHERIT:
    container->flags = UV_INHERIT_FD;
    container->data.fd = index;
    break;
  case PROCESS_STDOUT: break; // done once stdout is known
  case PROCESS_PIPE:
    if (index == 0) {
      rc = pipe_init(self, loop, &self->input, self);
      self->input_open = rc == 0;
      container->data.stream = (uv_stream_t *)&self->input;
      container->flags = UV_CREATE_PIPE | UV_READABLE_PIPE;
    } else {
      rc = output_init(self, loop, index - 1);
      container->data.stream = (uv_stream_t *)&self->outputs[index - 1].pipe;
      container->flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE;
    }
    break;
  case PROCESS_FILE:
    opened[index] = open(
        path, (index == 0 ? O_RDONLY : O_WRONLY | O_CREAT | O_APPEND) | O_CLOEXEC | O_NOCTTY, 0600);
    if (opened[index] < 0) {
      *failed = path;
      return -errno;
    }
    container->flags = UV_INHERIT_FD;
    container->data.fd = opened[index];
    break;
  }
  return rc;
}

/* Where stderr follows stdout, the child needs the same description twice: a pipe made here. */
static int stderr_follow(process *self, uv_stdio_container_t stdio[3], int opened[3]) {
  if (stdio[1].flags != (UV_CREATE_PIPE | UV_WRITABLE_PIPE)) {
    stdio[2] = stdio[1];
    return 0;
  }
  uv_file ends[2];
  int rc = uv_pipe(ends, UV_NONBLOCK_PIPE, 0);
  if (rc < 0) return rc;
  opened[1] = ends[1];
  rc = uv_pipe_open(&self->outputs[0].pipe, ends[0]);
  if (rc < 0) {
    close(ends[0]);
    return rc;
  }
  stdio[1].flags = stdio[2].flags = UV_INHERIT_FD;
  stdio[1].data.fd = stdio[2].data.fd = ends[1];
  return 0;
}

static int pty_prepare(process *self, uv_loop_t *loop, const process_options *options,
                       uv_stdio_container_t stdio[3], int opened[3]) {
  int master, slave;
  struct winsize size = {.ws_row = options->rows, .ws_col = options->columns};
  if (openpty(&master, &slave, NULL, NULL, &size) < 0) return -errno;
  opened[0] = slave;
  fcntl(master, F_SETFD, FD_CLOEXEC);
  fcntl(slave, F_SETFD, FD_CLOEXEC);
  int writer = fcntl(master, F_DUPFD_CLOEXEC, 3);
  if (writer < 0 || output_init(self, loop, 0) < 0) goto failed;
  if (uv_pipe_open(&self->outputs[0].pipe, master) < 0) goto failed;
  self->pty_fd = master; // closed with the pipe
  if (pipe_init(self, loop, &self->input, self) < 0) goto failed_writer;
  self->input_open = true;
  if (uv_pipe_open(&self->input, writer) < 0) goto failed_writer;
  for (int i = 0; i < 3; i++) {
    stdio[i].flags = UV_INHERIT_FD;
    stdio[i].data.fd = slave;
  }
  return 0;
failed:
  close(master);
failed_writer:
  if (writer >= 0) close(writer);
  return UV_EMFILE;
}

/* A pseudo-terminal becomes the child's controlling one through util-linux's setsid, which is part
 * of every Debian: libuv offers no hook between fork and exec. */
static char **pty_args(char **args) {
  size_t count = 0;
  while (args[count] != NULL)
    count++;
  char **wrapped = calloc(count + 4, sizeof *wrapped);
  if (wrapped == NULL) return NULL;
  wrapped[0] = (char *)"setsid";
  wrapped[1] = (char *)"--ctty";
  wrapped[2] = (char *)"--";
  memcpy(wrapped + 3, args, count * sizeof *args);
  return wrapped;
}

static int start(process *self, uv_loop_t *loop, const process_options *options,
                 uv_stdio_container_t stdio[3], const char **failed) {
  char **wrapped = NULL;
  uv_process_options_t spawn = {
      .exit_cb = child_ended,
      .file = options->file,
      .args = options->args,
      .env = options->env,
      .cwd = options->cwd,
      .stdio_count = 3,
      .stdio = stdio,
  };
  if (options->pty) {
    wrapped = pty_args(options->args);
    if (wrapped == NULL) return UV_ENOMEM;
    wrapped[3] = (char *)options->file;
    spawn.file = wrapped[0];
    spawn.args = wrapped;
  }
  if (options->detached) spawn.flags |= UV_PROCESS_DETACHED;
  if (options->set_ids) {
    spawn.flags |= UV_PROCESS_SETUID | UV_PROCESS_SETGID;
    spawn.uid = options->uid;
    spawn.gid = options->gid;
  }
  *failed = options->file;
  self->open_handles++;
  self->handle_open = true;
  int rc = uv_spawn(loop, &self->handle, &spawn);
  free(wrapped);
  return rc;
}

int process_spawn(uv_loop_t *loop, const process_options *options, process_changed_fn *changed,
                  void *data, process **out, const char **failed) {
  int opened[3] = {-1, -1, -1};
  uv_stdio_container_t stdio[3] = {0};
  process *self = calloc(1, sizeof *self);
  *failed = options->file;
  if (self == NULL) return UV_ENOMEM;
  self->changed = changed;
  self->data = data;
  self->pty_fd = -1;
  self->handle.data = self;
  for (int i = 0; i < 2; i++) {
    self->outputs[i].owner = self;
    self->outputs[i].bound = READ_AHEAD;
  }

  int rc = 0;
  if (options->pty) {
    rc = pty_prepare(self, loop, options, stdio, opened);
  } else {
    for (int i = 0; i < 3 && rc == 0; i++)
      rc = stdio_prepare(self, loop, options, i, &stdio[i], opened, failed);
    if (rc == 0 && options->stdio[2] == PROCESS_STDOUT) rc = stderr_follow(self, stdio, opened);
  }
  if (rc == 0) rc = start(self, loop, options, stdio, failed);
  for (int i = 0; i < 3; i++)
    if (opened[i] >= 0) close(opened[i]);
  if (rc < 0) {
    self->open_handles++; // process_release may close the last handle only after this
    process_release(self);
    handle_closed(self);
    return rc;
  }
  for (int i = 0; i < 2; i++) {
    if (!self->outputs[i].open) self->outputs[i].ended = true;
    output_resume(&self->outputs[i]);
  }
  *out = self;
  return 0;
}

int process_pid(const process *self) {
  return self->handle.pid;
}

bool process_ended(const process *self, int64_t *status, int *signal) {
  if (!self->ended) return false;
  *status = self->status;
  *signal = self->signal;
  return true;
}

int process_kill(process *self, int signal) {
  if (self->ended || !self->handle_open) return UV_ESRCH;
  return uv_process_kill(&self->handle, signal);
}

const char *process_peek(const process *self, process_stream stream, size_t *length, bool *ended) {
  const output *out = &self->outputs[stream];
  *length = out->end - out->begin;
  *ended = out->ended;
  return out->bytes == NULL ? "" : out->bytes + out->begin;
}

void process_consume(process *self, process_stream stream, size_t length) {
  output *out = &self->outputs[stream];
  out->begin += length;
  if (out->begin == out->end && out->capacity > READ_AHEAD) {
    free(out->bytes);
    out->bytes = NULL;
    out->begin = out->end = out->capacity = 0;
  }
  output_resume(out);
}

void process_collect(process *self, process_stream stream, size_t bytes) {
  self->outputs[stream].bound = bytes;
  output_resume(&self->outputs[stream]);
}

bool process_full(const process *self, process_stream stream, size_t bytes) {
  const output *out = &self->outputs[stream];
  return out->end - out->begin >= bytes;
}

static void written(uv_write_t *request, int status) {
  (void)status; // a child that reads no more is no failure of ours
  free(request->data);
}

int process_write(process *self, const char *bytes, size_t length) {
  if (!self->input_open) return UV_EPIPE;
  pending_write *pending = malloc(sizeof *pending + length);
  if (pending == NULL) return UV_ENOMEM;
  pending->owner = self;
  pending->request.data = pending;
  memcpy(pending->bytes, bytes, length);
  uv_buf_t buffer = uv_buf_init(pending->bytes, (unsigned)length);
  int rc = uv_write(&pending->request, (uv_stream_t *)&self->input, &buffer, 1, written);
  if (rc < 0) free(pending);
  return rc;
}

static void input_shut(uv_shutdown_t *request, int status) {
  (void)status;
  process *self = request->data;
  free(request);
  if (self != NULL && !uv_is_closing((uv_handle_t *)&self->input)) input_close(self);
}

void process_end_input(process *self) {
  if (!self->input_open) return;
  uv_shutdown_t *request = malloc(sizeof *request);
  if (request != NULL) {
    request->data = self;
    if (uv_shutdown(request, (uv_stream_t *)&self->input, input_shut) == 0) return;
    free(request);
  }
  input_close(self);
}

int process_resize(process *self, unsigned short rows, unsigned short columns) {
  struct winsize size = {.ws_row = rows, .ws_col = columns};
  if (self->pty_fd < 0 || !self->outputs[0].open) return UV_EBADF;
  return ioctl(self->pty_fd, TIOCSWINSZ, &size) < 0 ? -errno : 0;
}

void process_release(process *self) {
  if (self->released) return;
  self->open_handles++; // keeps self until the end of this function
  self->released = true;
  input_close(self);
  output_end(&self->outputs[0]);
  output_end(&self->outputs[1]);
  if (self->handle_open) {
    self->handle_open = false;
    uv_close((uv_handle_t *)&self->handle, process_handle_closed);
  }
  handle_closed(self);
}
