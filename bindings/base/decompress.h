/* decompress.h: the way back from compress.h: zstd and gzip streams as plain bytes, bounded in what
 * one call can make of its input. */
#ifndef NEBULA_BASE_DECOMPRESS_H
#define NEBULA_BASE_DECOMPRESS_H

#include "base/compress.h"

typedef struct decompress_stream decompress_stream;

/* NULL on a lack of memory. */
decompress_stream *decompress_new(compress_kind kind);

/* Appends what the bytes become, at most about a MiB at once, and says how many were used; `end`:
 * no more will follow. False where they are no such stream, or end inside of it, or memory ends. */
bool decompress_feed(decompress_stream *self, const char *data, size_t length, bool end,
                     size_t *used, bytes *out);

const char *decompress_name(const decompress_stream *self);

/* NULL is harmless. */
void decompress_free(decompress_stream *self);

#endif
