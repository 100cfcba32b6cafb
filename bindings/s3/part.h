/* part.h: one part of an upload in memory, and reading it from a file on the thread pool. */
#ifndef NEBULA_S3_PART_H
#define NEBULA_S3_PART_H

#include "s3/call.h"
#include "s3/hash.h"

typedef struct s3_upload s3_upload;
typedef struct s3_part s3_part;
typedef struct part_read part_read;

struct s3_part {
  s3_upload *upload;
  bytes buffer;     /* kept for the next part */
  const char *data; /* the buffer's bytes, or the caller's */
  size_t length;
  uint64_t offset;    /* in the object */
  int number;         /* 1 and up; 0: the part is free */
  bool filled;        /* all of its bytes are there */
  s3_digests digests; /* of a part that came from a file */
  s3_call *call;
  part_read *read;
};

/* A file that several reads share; closed with the last reference. */
typedef struct part_file {
  int descriptor;
  int references;
} part_file;

part_file *part_file_new(int descriptor);
part_file *part_file_hold(part_file *self);
void part_file_release(part_file *self);

/* Reads `length` bytes at `offset` into the part's buffer, takes the digests that are wanted, then
 * calls done(part, error) once: 0, a negative errno, or UV_EOF where the file is shorter. False
 * where that cannot begin. */
bool part_read_start(s3_part *part, loop *on, part_file *file, uint64_t offset, size_t length,
                     s3_digests_wanted wanted, void (*done)(s3_part *part, int error));

/* The part forgets the read, which cleans up behind itself. NULL is harmless. */
void part_read_cancel(part_read *self);

#endif
