/* download.c: see download.h. All file work runs on the thread pool, as jobs that own what they
 * touch: one that outlives the download cleans up behind itself. */
#include "s3/download.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "crypto/crypto_crc32c.h"
#include "s3/check.h"
#include "s3/part.h"

enum {
  SMALL_BYTES = 256 * 1024,
  PIECE_BYTES = 256 * 1024, /* written while they are in the processor's cache */
  HELD_MOST = 1024 * 1024,  /* of a range that waits for the disk; its connection pauses then */
};

/* A part of the object: asked for by one call, written piece by piece as it comes. An attempt that
 * broke is void: the next one begins with the first byte again. */
typedef struct range {
  s3_download *download;
  s3_call *call; /* NULL once all has come */
  uint64_t offset;
  size_t length; /* 0: free */
  bytes piece;   /* has come, and waits to be written */
  bytes spare;   /* the memory of the piece before */
  unsigned attempt;
  size_t given;    /* to jobs, in this attempt */
  size_t written;  /* of that */
  uint32_t crc32c; /* of what is written */
  bool paused;
} range;

/* A small object is one job; a large one is opened, written range by range, and named. */
typedef enum job_kind { JOB_WHOLE, JOB_OPEN, JOB_WRITE, JOB_NAME } job_kind;

typedef struct job {
  loop_job base;
  s3_download *download; /* NULL once that is gone */
  struct job *next;      /* in the download's list */
  job_kind kind;
  range *at;
  part_file *file;
  bytes data;
  uint64_t offset;
  char *temporary, *path;
  int descriptor;   /* of JOB_WHOLE and JOB_OPEN */
  bool nameless;    /* the temporary file; found out as it is opened */
  unsigned attempt; /* JOB_WRITE: of the range */
  uint32_t crc32c;  /* JOB_WRITE: of the range so far */
  bool summing;     /* the server has told a checksum to compare with */
  int error;
} job;

struct s3_download {
  s3_client *client;
  s3_download_options options;
  char *key, *path, *temporary;
  http_headers headers, query, answer;
  s3_call *first; /* of the whole object; given up where it is larger than a part */
  range *ranges;
  job *jobs;
  part_file *file;
  uint64_t size, given, written;
  uint32_t crc32c; /* of what is written, as a share of the whole */
  bool ended, nameless, large;
  bool writing; /* one at a time: two threads would only spin for the lock of the file */
  int turn;     /* the range that is looked at first for the next write */
  s3_failure failure;
};

static void go_on(s3_download *self);
static void on_written(s3_download *self, job *done);

/* ---- jobs ---- */

static int write_all(int descriptor, const bytes *data, uint64_t offset) {
  for (size_t at = 0; at < data->length;) {
    ssize_t count = pwrite(descriptor, data->data + at, data->length - at, (off_t)(offset + at));
    if (count > 0) at += (size_t)count;
    if (count < 0 && errno != EINTR) return errno;
  }
  return 0;
}

static void run_write(job *self) {
  if (self->summing) self->crc32c = crypto_crc32c(self->crc32c, self->data.data, self->data.length);
  self->error = write_all(self->file->descriptor, &self->data, self->offset);
}

/* Where the file system can do that, the file has no name until it is whole: nothing is left of it,
 * however this process ends. */
static void run_open(job *self) {
  char *path = strdup(self->path);
  if (path != NULL) self->descriptor = open(dirname(path), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
  free(path);
  self->nameless = self->descriptor >= 0;
  if (!self->nameless)
    self->descriptor = open(self->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (self->descriptor < 0) self->error = errno;
}

/* What a network file system could not store, it says when a descriptor is closed. */
static bool flush(int descriptor) {
  int other = dup(descriptor);
  return other >= 0 && close(other) == 0;
}

/* Only by this path can a file without a name get one. */
static bool link_as(int descriptor, const char *name) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
  return linkat(AT_FDCWD, path, AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0;
}

/* A link cannot take another's place, as a rename can. */
static bool give_name(const job *self, int descriptor) {
  if (self->nameless) {
    if (link_as(descriptor, self->path)) return true;
    if (errno != EEXIST || !link_as(descriptor, self->temporary)) return false;
  }
  return rename(self->temporary, self->path) == 0;
}

static void run_name(job *self) {
  int descriptor = self->file->descriptor;
  if (!flush(descriptor) || !give_name(self, descriptor)) self->error = errno;
}

static void run_whole(job *self) {
  run_open(self);
  if (self->error != 0) return;
  self->error = write_all(self->descriptor, &self->data, 0);
  if (self->error == 0 && (!flush(self->descriptor) || !give_name(self, self->descriptor)))
    self->error = errno;
  close(self->descriptor);
  if (self->error != 0) unlink(self->temporary);
}

static void job_run(loop_job *base) {
  job *self = (job *)base;
  switch (self->kind) {
  case JOB_WHOLE: run_whole(self); break;
  case JOB_OPEN: run_open(self); break;
  case JOB_WRITE: run_write(self); break;
  case JOB_NAME: run_name(self); break;
  }
}

static void job_free(job *self) {
  part_file_release(self->file);
  bytes_free(&self->data);
  free(self->temporary);
  free(self->path);
  free(self);
}

static void finish(s3_download *self) {
  self->ended = true;
  self->options.on_event(self->options.data);
}

static void drop(s3_download *self) {
  s3_call_free(self->first);
  self->first = NULL;
  for (int i = 0; i < self->options.concurrency; i++) {
    s3_call_free(self->ranges[i].call);
    self->ranges[i].call = NULL;
    bytes_free(&self->ranges[i].piece);
    bytes_free(&self->ranges[i].spare);
  }
  for (job *at = self->jobs; at != NULL; at = at->next)
    at->download = NULL;
  self->jobs = NULL;
  if (self->file != NULL) unlink(self->temporary);
  part_file_release(self->file);
  self->file = NULL;
}

static void fail(s3_download *self, const s3_failure *failure) {
  self->failure = *failure;
  drop(self);
  finish(self);
}

static void fail_memory(s3_download *self) {
  s3_failure failure = {0};
  s3_failure_set(&failure, S3_NO_MEMORY, NULL, "out of memory");
  fail(self, &failure);
}

static void fail_file(s3_download *self, int error) {
  s3_failure failure = {0};
  s3_failure_set(&failure, S3_IO, uv_err_name(-error), "S3 download of \"%.100s\" into %.300s: %s",
                 self->key, self->path, strerror(error));
  fail(self, &failure);
}

static void leave_list(job *self) {
  job **at = &self->download->jobs;
  while (*at != self)
    at = &(*at)->next;
  *at = self->next;
}

static void on_opened(s3_download *self, const job *done) {
  self->nameless = done->nameless;
  self->file = part_file_new(done->descriptor);
  if (self->file != NULL) {
    go_on(self);
  } else {
    close(done->descriptor);
    unlink(self->temporary);
    fail_memory(self);
  }
}

static void job_done(loop_job *base) {
  job *self = (job *)base;
  s3_download *download = self->download;
  if (download == NULL) {
    if (self->kind == JOB_OPEN && self->error == 0) {
      close(self->descriptor);
      unlink(self->temporary);
    }
    job_free(self);
    return;
  }
  leave_list(self);
  if (self->error != 0) {
    fail_file(download, self->error);
  } else {
    switch (self->kind) {
    case JOB_WHOLE:
      download->written = self->data.length;
      finish(download);
      break;
    case JOB_NAME:
      part_file_release(download->file);
      download->file = NULL;
      finish(download);
      break;
    case JOB_OPEN: on_opened(download, self); break;
    case JOB_WRITE: on_written(download, self); break;
    }
  }
  job_free(self);
}

static void large_job_run(uv_work_t *work) {
  job_run(work->data);
}

static void large_job_done(uv_work_t *work, int status) {
  (void)status;
  job_done(work->data);
}

/* Takes the data, if any. False where there is no memory. */
static bool job_start(s3_download *self, job_kind kind, range *at, bytes *data) {
  job *new = calloc(1, sizeof *new);
  if (new == NULL) return false;
  new->base = (loop_job){.run = job_run, .done = job_done};
  new->kind = kind;
  new->descriptor = -1;
  new->nameless = self->nameless;
  new->summing = http_headers_get(&self->answer, S3_CRC32C_HEADER) != NULL;
  if (self->file != NULL) new->file = part_file_hold(self->file);
  if (data != NULL) new->data = *data, *data = (bytes){0};
  if (at != NULL) {
    new->at = at;
    new->offset = at->offset + at->given;
    new->attempt = at->attempt;
    new->crc32c = at->crc32c;
  }
  new->temporary = strdup(self->temporary);
  new->path = strdup(self->path);
  if (new->temporary == NULL || new->path == NULL) {
    job_free(new);
    return false;
  }
  loop *on = self->client->on;
  if (kind == JOB_WHOLE && new->data.length <= SMALL_BYTES) {
    loop_job_start(on, &new->base);
  } else {
    new->base.work.data = new;
    uv_queue_work(&on->uv, &new->base.work, large_job_run, large_job_done);
  }
  new->download = self;
  new->next = self->jobs;
  self->jobs = new;
  return true;
}

/* ---- what has come of ranges, and its way into the file ---- */

/* Starts the next write where none is under way. False where there is no memory. */
static bool write_next(s3_download *self) {
  for (int i = 0; i < self->options.concurrency && !self->writing; i++) {
    int index = (self->turn + i) % self->options.concurrency;
    range *at = &self->ranges[index];
    size_t length = at->piece.length;
    if (length < PIECE_BYTES && (length == 0 || at->call != NULL)) continue;
    if (!job_start(self, JOB_WRITE, at, &at->piece)) return false;
    self->writing = true;
    self->turn = index + 1;
    at->given += length;
    at->piece = at->spare;
    at->spare = (bytes){0};
  }
  return true;
}

/* A range of which all has come and is written makes room for the next one. */
static bool end_range(s3_download *self, range *at) {
  if (at->call != NULL || at->length == 0 || at->written < at->length) return false;
  self->crc32c ^= crypto_crc32c_before(at->crc32c, self->size - at->offset - at->length);
  self->written += at->length;
  at->length = 0;
  self->options.on_event(self->options.data);
  return true;
}

static void resume_ranges(s3_download *self) {
  for (int i = 0; i < self->options.concurrency; i++) {
    range *at = &self->ranges[i];
    if (!at->paused || at->piece.length >= HELD_MOST) continue;
    at->paused = false;
    s3_call_resume(at->call);
  }
}

static void on_written(s3_download *self, job *done) {
  range *at = done->at;
  self->writing = false;
  if (at->attempt == done->attempt) {
    at->crc32c = done->crc32c;
    at->written += done->data.length;
  }
  if (at->spare.data == NULL) {
    at->spare = done->data;
    bytes_clear(&at->spare);
    done->data = (bytes){0};
  }
  if (!write_next(self)) {
    fail_memory(self);
    return;
  }
  resume_ranges(self);
  if (end_range(self, at)) go_on(self);
}

static void begin_attempt(range *at) {
  at->attempt++;
  at->given = at->written = 0;
  at->crc32c = 0;
  bytes_clear(&at->piece);
}

static bool on_range_head(s3_call *call, void *data) {
  (void)call;
  begin_attempt(data);
  return true;
}

static http_take on_range_push(void *data, const char *come, size_t length) {
  range *at = data;
  if (at->piece.length >= HELD_MOST) {
    at->paused = true;
    return HTTP_TAKE_LATER;
  }
  if (at->piece.data == NULL) bytes_reserve(&at->piece, PIECE_BYTES + length);
  bool well = bytes_append(&at->piece, come, length) && write_next(at->download);
  at->piece.failed |= !well;
  return well ? HTTP_TAKEN : HTTP_TAKE_ABORT;
}

/* ---- requests ---- */

static void on_range(s3_call *call, void *data) {
  range *at = data;
  s3_download *self = at->download;
  s3_failure failure = *s3_call_failure(call);
  size_t come = at->given + at->piece.length;
  s3_call_free(call);
  at->call = NULL;
  at->paused = false;
  if (failure.kind == S3_WELL && come != at->length)
    s3_failure_set(&failure, S3_REFUSED, "IncompleteBody",
                   "S3 download of \"%.100s\": %zu bytes came where %zu were asked for", self->key,
                   come, at->length);
  if (failure.kind == S3_ABSENT || failure.kind == S3_CONFLICT)
    s3_failure_set(&failure, S3_CONFLICT, "PreconditionFailed",
                   "S3 download of \"%.100s\": the object was replaced while it was read: try "
                   "again",
                   self->key);
  if (at->piece.failed) {
    fail_memory(self);
  } else if (failure.kind != S3_WELL) {
    fail(self, &failure);
  } else if (!write_next(self)) {
    fail_memory(self);
  } else if (end_range(self, at)) {
    go_on(self);
  }
}

static bool ask_for(s3_download *self, range *at) {
  http_headers headers = {0};
  char text[80];
  uint64_t left = self->size - self->given;
  at->offset = self->given;
  at->length = left < self->options.part_size ? (size_t)left : self->options.part_size;
  self->given += at->length;
  begin_attempt(at);
  snprintf(text, sizeof text, "bytes=%" PRIu64 "-%" PRIu64, at->offset,
           at->offset + at->length - 1);
  const char *etag = http_headers_get(&self->answer, "etag");
  bool well = http_headers_add(&headers, "Range", text) &&
              (etag == NULL || http_headers_add(&headers, "If-Match", etag));
  s3_call_request request = {
      .what = "download",
      .method = "GET",
      .key = self->key,
      .key_length = self->options.key_length,
      .headers = &headers,
      .query = &self->query,
      .max_bytes = at->length,
      .push = on_range_push,
      .on_head = on_range_head,
      .rewinds = true,
      .deadline = self->options.deadline,
      .on_done = on_range,
      .data = at,
  };
  if (well) at->call = s3_call_start(self->client, &request);
  http_headers_free(&headers);
  return at->call != NULL;
}

/* By the checksum that the server's first answer told. */
static bool is_damaged(const s3_download *self) {
  char text[S3_CRC32C_TEXT];
  const char *wanted = http_headers_get(&self->answer, S3_CRC32C_HEADER);
  if (wanted == NULL || strchr(wanted, '-') != NULL) return false;
  s3_crc32c_text(self->crc32c, text);
  return strcmp(text, wanted) != 0;
}

static void go_on(s3_download *self) {
  bool busy = false;
  for (int i = 0; i < self->options.concurrency; i++) {
    range *at = &self->ranges[i];
    if (at->length == 0 && self->given < self->size && !ask_for(self, at)) {
      fail_memory(self);
      return;
    }
    busy |= at->length != 0;
  }
  if (busy) return;
  if (is_damaged(self)) {
    s3_failure failure = {0};
    s3_failure_set_damage(&failure, "download", self->key, "checksum");
    fail(self, &failure);
  } else if (!job_start(self, JOB_NAME, NULL, NULL)) {
    fail_memory(self);
  }
}

/* What is larger than a part is fetched in ranges; this answer was only its head then. */
static bool on_first_head(s3_call *call, void *data) {
  s3_download *self = data;
  const char *size = s3_call_header(call, "content-length");
  self->size = size == NULL ? 0 : strtoull(size, NULL, 10);
  self->large = self->size > self->options.part_size;
  return !self->large;
}

static void on_first(s3_call *call, void *data) {
  s3_download *self = data;
  const s3_failure failure = *s3_call_failure(call);
  bool refused = failure.kind != S3_WELL && !self->large;
  bool well = http_headers_add_all(&self->answer, s3_call_headers(call));
  bytes body = *s3_call_body(call);
  *s3_call_body(call) = (bytes){0};
  s3_call_free(call);
  self->first = NULL;
  if (refused) {
    fail(self, &failure);
  } else if (!well) {
    fail_memory(self);
  } else if (!(self->large ? job_start(self, JOB_OPEN, NULL, NULL)
                           : job_start(self, JOB_WHOLE, NULL, &body))) {
    fail_memory(self);
  }
  bytes_free(&body);
}

/* ---- from outside ---- */

static char *temporary_name(const char *path) {
  bytes text = {0};
  bytes_format(&text, "%s.nebula-%ld-%" PRIx64, path, (long)getpid(), uv_hrtime());
  return bytes_detach(&text);
}

s3_download *s3_download_start(s3_client *client, const s3_download_options *options) {
  s3_download *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->client = s3_client_hold(client);
  self->options = *options;
  self->ranges = calloc((size_t)options->concurrency, sizeof *self->ranges);
  self->key = strndup(options->key, options->key_length);
  self->path = strdup(options->path);
  self->temporary = temporary_name(options->path);
  bool well = self->ranges != NULL && self->key != NULL && self->path != NULL &&
              self->temporary != NULL && http_headers_add_all(&self->headers, options->headers) &&
              http_headers_add_all(&self->query, options->query);
  for (int i = 0; well && i < options->concurrency; i++)
    self->ranges[i].download = self;
  s3_call_request request = {
      .what = "download",
      .method = "GET",
      .key = self->key,
      .key_length = options->key_length,
      .headers = &self->headers,
      .query = &self->query,
      .max_bytes = options->part_size,
      .verify = true,
      .on_head = on_first_head,
      .deadline = options->deadline,
      .on_done = on_first,
      .data = self,
  };
  if (well) self->first = s3_call_start(client, &request);
  if (self->first != NULL) return self;
  s3_download_free(self);
  return NULL;
}

bool s3_download_has_ended(const s3_download *self) {
  return self->ended;
}

const s3_failure *s3_download_failure(const s3_download *self) {
  return &self->failure;
}

const http_headers *s3_download_headers(const s3_download *self) {
  return &self->answer;
}

uint64_t s3_download_written(const s3_download *self) {
  return self->written;
}

void s3_download_free(s3_download *self) {
  if (self == NULL) return;
  if (self->ranges != NULL) drop(self);
  http_headers_free(&self->headers);
  http_headers_free(&self->query);
  http_headers_free(&self->answer);
  free(self->ranges);
  free(self->key);
  free(self->path);
  free(self->temporary);
  s3_client_release(self->client);
  free(self);
}
