/* compress.h: bytes made smaller on their way, as zstd or gzip streams. On the calling thread:
 * zstd's usual level takes a millisecond for some hundred KiB, so feed it no more than that at
 * once. */
#ifndef NEBULA_BASE_COMPRESS_H
#define NEBULA_BASE_COMPRESS_H

#include <stdbool.h>
#include <stddef.h>
#include "base/bytes.h"

typedef struct compress_stream compress_stream;

typedef enum compress_kind { COMPRESS_ZSTD, COMPRESS_GZIP } compress_kind;

enum { COMPRESS_AT_ONCE = 256 * 1024 };

/* Levels, from 1 on; those of zstd above 19 take hundreds of MiB. */
enum {
  COMPRESS_ZSTD_USUAL = 3,
  COMPRESS_ZSTD_MOST = 19,
  COMPRESS_GZIP_USUAL = 6,
  COMPRESS_GZIP_MOST = 9,
};

/* NULL on a lack of memory. */
compress_stream *compress_new(compress_kind kind, int level);

/* Appends what the bytes become to *out; with `last`, ends the stream. False on a lack of memory.
 */
bool compress_feed(compress_stream *self, const char *data, size_t length, bool last, bytes *out);

/* NULL is harmless. */
void compress_free(compress_stream *self);

#endif
