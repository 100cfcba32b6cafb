/* fs_walk.h: what is in a directory, or below it, a batch at a time: memory is bounded by the batch
 * and the depth. Links are not followed. Blocking: it belongs on a thread of the pool. */
#ifndef NEBULA_FS_WALK_H
#define NEBULA_FS_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { FS_WALK_BATCH = 256, FS_WALK_DEPTH = 256 };

typedef struct fs_entry {
  char *path; /* the walk's root and what follows it; owned by the batch */
  mode_t mode;
  uint64_t size;
  double changed; /* seconds since 1970 */
} fs_entry;

typedef struct fs_batch {
  fs_entry entries[FS_WALK_BATCH];
  size_t count;
} fs_batch;

typedef struct fs_walk fs_walk;

/* Begins at a directory; 0 or an errno. Nothing is read before the first batch. */
int fs_walk_open(const char *path, bool recursive, fs_walk **out);

/* Fills the batch, which must be empty; one of none is the end. 0 or an errno: then *failed is the
 * path it concerns, which the caller frees. What vanishes meanwhile is left out. */
int fs_walk_next(fs_walk *self, fs_batch *batch, char **failed);

void fs_batch_clear(fs_batch *self);

void fs_walk_close(fs_walk *self); /* safe with NULL */

#endif
