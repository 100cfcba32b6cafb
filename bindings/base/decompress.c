/* decompress.c: see decompress.h. Streams that follow one another are one stream, as with the
 * tools. */
#include "base/decompress.h"

#include <stdlib.h>
#define ZLIB_CONST /* what is read is const */
#include <zlib.h>
#include <zstd.h>

enum { STEP = 128 * 1024, MADE_MOST = 1024 * 1024, GZIP_WINDOW = 15 + 16 };

struct decompress_stream {
  ZSTD_DCtx *zstd; /* NULL where it is gzip */
  z_stream gzip;
  bool inside; /* a stream has begun and not ended */
  bool full;   /* the last step filled its room: it has more to give */
};

decompress_stream *decompress_new(compress_kind kind) {
  decompress_stream *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  bool well = false;
  if (kind == COMPRESS_ZSTD) {
    self->zstd = ZSTD_createDCtx();
    well = self->zstd != NULL;
  } else {
    well = inflateInit2(&self->gzip, GZIP_WINDOW) == Z_OK;
  }
  if (well) return self;
  free(self);
  return NULL;
}

static bool step_zstd(decompress_stream *self, const char *data, size_t length, size_t *used,
                      bytes *out) {
  ZSTD_inBuffer in = {data, length, 0};
  ZSTD_outBuffer to = {out->data + out->length, STEP, 0};
  size_t left = ZSTD_decompressStream(self->zstd, &to, &in);
  if (ZSTD_isError(left)) return false;
  self->inside = left != 0;
  self->full = to.pos == STEP;
  *used += in.pos;
  out->length += to.pos;
  return true;
}

static bool step_gzip(decompress_stream *self, const char *data, size_t length, size_t *used,
                      bytes *out) {
  self->gzip.next_in = (const Bytef *)data;
  self->gzip.avail_in = (uInt)length;
  self->gzip.next_out = (Bytef *)out->data + out->length;
  self->gzip.avail_out = STEP;
  int status = inflate(&self->gzip, Z_NO_FLUSH);
  if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) return false;
  self->full = self->gzip.avail_out == 0;
  *used += length - self->gzip.avail_in;
  out->length += STEP - self->gzip.avail_out;
  if (length > 0) self->inside = true;
  if (status != Z_STREAM_END) return true;
  self->inside = false;
  return inflateReset(&self->gzip) == Z_OK;
}

bool decompress_feed(decompress_stream *self, const char *data, size_t length, bool end,
                     size_t *used, bytes *out) {
  size_t before = out->length;
  *used = 0;
  while ((*used < length || self->full) && out->length - before < MADE_MOST) {
    if (!bytes_reserve(out, STEP)) return false;
    size_t used_before = *used, made_before = out->length;
    bool well = self->zstd != NULL ? step_zstd(self, data + *used, length - *used, used, out)
                                   : step_gzip(self, data + *used, length - *used, used, out);
    out->data[out->length] = '\0';
    if (!well) return false;
    if (*used == used_before && out->length == made_before) break;
  }
  return !(end && self->inside && out->length == before);
}

const char *decompress_name(const decompress_stream *self) {
  return self->zstd != NULL ? "zstd" : "gzip";
}

void decompress_free(decompress_stream *self) {
  if (self == NULL) return;
  if (self->zstd != NULL) {
    ZSTD_freeDCtx(self->zstd);
  } else {
    inflateEnd(&self->gzip);
  }
  free(self);
}
