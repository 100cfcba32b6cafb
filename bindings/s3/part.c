/* part.c: see part.h. */
#include "s3/part.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct part_read {
  uv_work_t work;
  s3_part *part; /* NULL once cancelled */
  part_file *file;
  bytes buffer; /* the part's, for the time of the read */
  uint64_t offset;
  size_t length;
  s3_digests_wanted wanted;
  int error;
  s3_digests digests;
  void (*done)(s3_part *part, int error);
};

part_file *part_file_new(int descriptor) {
  part_file *self = malloc(sizeof *self);
  if (self == NULL) return NULL;
  *self = (part_file){.descriptor = descriptor, .references = 1};
  return self;
}

part_file *part_file_hold(part_file *self) {
  self->references++;
  return self;
}

void part_file_release(part_file *self) {
  if (self == NULL || --self->references > 0) return;
  close(self->descriptor);
  free(self);
}

/* Reading into a part touches its memory for the first time: in pages of 2 MiB that takes a few
 * faults instead of a thousand, which a virtual machine makes dear. A hint, no more. */
static void prefer_large_pages(const bytes *buffer) {
  uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
  uintptr_t begin = ((uintptr_t)buffer->data + page - 1) & ~(page - 1);
  uintptr_t end = ((uintptr_t)buffer->data + buffer->capacity) & ~(page - 1);
  if (end > begin) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
}

/* A piece is read and hashed before the next one takes its place in the cache. */
static void read_run(uv_work_t *work) {
  part_read *self = work->data;
  s3_hasher hasher;
  size_t got = 0;
  s3_hasher_begin(&hasher, self->wanted);
  while (got < self->length && self->error == 0) {
    char *into = self->buffer.data + got;
    size_t piece = self->length - got < S3_HASH_PIECE ? self->length - got : S3_HASH_PIECE;
    ssize_t count = pread(self->file->descriptor, into, piece, (off_t)(self->offset + got));
    if (count > 0) {
      s3_hasher_take(&hasher, into, (size_t)count);
      got += (size_t)count;
    }
    if (count == 0) self->error = UV_EOF;
    if (count < 0 && errno != EINTR) self->error = -errno;
  }
  if (!s3_hasher_end(&hasher, &self->digests) && self->error == 0) self->error = UV_ENOMEM;
  if (self->error == 0) self->buffer.length = got;
}

static void read_done(uv_work_t *work, int status) {
  part_read *self = work->data;
  s3_part *part = self->part;
  if (part != NULL) {
    part->buffer = self->buffer;
    part->data = part->buffer.data;
    part->length = part->buffer.length;
    part->digests = self->digests;
    part->read = NULL;
  } else {
    bytes_free(&self->buffer);
  }
  part_file_release(self->file);
  int error = status != 0 ? status : self->error;
  void (*done)(s3_part *, int) = self->done;
  free(self);
  if (part != NULL) done(part, error);
}

bool part_read_start(s3_part *part, loop *on, part_file *file, uint64_t offset, size_t length,
                     s3_digests_wanted wanted, void (*done)(s3_part *part, int error)) {
  part_read *self = calloc(1, sizeof *self);
  if (self == NULL) return false;
  const char *before = part->buffer.data;
  bytes_clear(&part->buffer);
  if (!bytes_reserve(&part->buffer, length)) {
    free(self);
    return false;
  }
  if (part->buffer.data != before) prefer_large_pages(&part->buffer);
  self->work.data = self;
  self->part = part;
  self->file = part_file_hold(file);
  self->offset = offset;
  self->length = length;
  self->wanted = wanted;
  self->done = done;
  self->buffer = part->buffer;
  if (uv_queue_work(&on->uv, &self->work, read_run, read_done) != 0) {
    part_file_release(file);
    free(self);
    return false;
  }
  part->buffer = (bytes){0};
  part->read = self;
  return true;
}

void part_read_cancel(part_read *self) {
  if (self == NULL) return;
  self->part->read = NULL;
  self->part = NULL;
}
