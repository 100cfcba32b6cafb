/* hash.h: the SHA-256 of many bytes, on the thread pool.
 *
 * Cancelling waits for the piece that is being read at that moment (a tenth of a millisecond),
 * after which the bytes may go away. */
#ifndef NEBULA_S3_HASH_H
#define NEBULA_S3_HASH_H

#include <stddef.h>
#include "async/loop.h"

typedef struct s3_hash s3_hash;

enum { S3_HASH_HERE_MOST = 128 * 1024 }; /* fewer bytes are hashed faster than handed over */

/* Calls done(data, hex) once from the loop; hex is NULL where the work failed. NULL on a lack of
 * memory. The hash frees itself after that. */
s3_hash *s3_hash_start(loop *on, const void *from, size_t length,
                       void (*done)(void *data, const char *hex), void *data);

/* done is not called any more. NULL is harmless. */
void s3_hash_cancel(s3_hash *self);

#endif
