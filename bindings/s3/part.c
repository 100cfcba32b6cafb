/* part.c: see part.h. */
#include "s3/part.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct part_read {
  uv_work_t work;
  s3_part *part; /* NULL once cancelled */
  part_file *file;
  bytes buffer; /* the part's, for the time of the read */
  uint64_t offset;
  size_t length;
  bool hashing;
  int error;
  char hash[SIGN_HEX_LENGTH + 1];
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

static void read_run(uv_work_t *work) {
  part_read *self = work->data;
  size_t got = 0;
  while (got < self->length && self->error == 0) {
    ssize_t count = pread(self->file->descriptor, self->buffer.data + got, self->length - got,
                          (off_t)(self->offset + got));
    if (count > 0) got += (size_t)count;
    if (count == 0) self->error = UV_EOF;
    if (count < 0 && errno != EINTR) self->error = -errno;
  }
  if (self->error != 0) return;
  self->buffer.length = got;
  if (self->hashing) sign_sha256_hex(self->buffer.data, got, self->hash);
}

static void read_done(uv_work_t *work, int status) {
  part_read *self = work->data;
  s3_part *part = self->part;
  if (part != NULL) {
    part->buffer = self->buffer;
    part->data = part->buffer.data;
    part->length = part->buffer.length;
    memcpy(part->hash, self->hash, sizeof part->hash);
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
                     bool hash, void (*done)(s3_part *part, int error)) {
  part_read *self = calloc(1, sizeof *self);
  if (self == NULL) return false;
  bytes_clear(&part->buffer);
  if (!bytes_reserve(&part->buffer, length)) {
    free(self);
    return false;
  }
  self->work.data = self;
  self->part = part;
  self->file = part_file_hold(file);
  self->offset = offset;
  self->length = length;
  self->hashing = hash;
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
