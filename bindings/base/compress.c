/* compress.c: see compress.h. */
#include "base/compress.h"

#include <stdlib.h>
#define ZLIB_CONST /* what is read is const */
#include <zlib.h>
#include <zstd.h>

enum { STEP = 64 * 1024, GZIP_WINDOW = 15 + 16 /* 16: a gzip header */ };

struct compress_stream {
  ZSTD_CCtx *zstd; /* NULL where it is gzip */
  z_stream gzip;
};

compress_stream *compress_new(compress_kind kind, int level) {
  compress_stream *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  bool well = false;
  if (kind == COMPRESS_ZSTD) {
    self->zstd = ZSTD_createCCtx();
    well = self->zstd != NULL &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(self->zstd, ZSTD_c_checksumFlag, 1)) &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(self->zstd, ZSTD_c_compressionLevel, level));
  } else {
    well = deflateInit2(&self->gzip, level, Z_DEFLATED, GZIP_WINDOW, 8, Z_DEFAULT_STRATEGY) == Z_OK;
  }
  if (well) return self;
  ZSTD_freeCCtx(self->zstd);
  free(self);
  return NULL;
}

static bool feed_zstd(compress_stream *self, const char *data, size_t length, bool last,
                      bytes *out) {
  ZSTD_inBuffer in = {data, length, 0};
  for (;;) {
    if (!bytes_reserve(out, STEP)) return false;
    ZSTD_outBuffer to = {out->data + out->length, STEP, 0};
    size_t left = ZSTD_compressStream2(self->zstd, &to, &in, last ? ZSTD_e_end : ZSTD_e_continue);
    if (ZSTD_isError(left)) return false;
    out->length += to.pos;
    if (last ? left == 0 : in.pos == in.size) return true;
  }
}

static bool feed_gzip(compress_stream *self, const char *data, size_t length, bool last,
                      bytes *out) {
  self->gzip.next_in = (const Bytef *)data;
  self->gzip.avail_in = (uInt)length;
  for (;;) {
    if (!bytes_reserve(out, STEP)) return false;
    self->gzip.next_out = (Bytef *)out->data + out->length;
    self->gzip.avail_out = STEP;
    int status = deflate(&self->gzip, last ? Z_FINISH : Z_NO_FLUSH);
    if (status == Z_STREAM_ERROR) return false;
    out->length += STEP - self->gzip.avail_out;
    if (last ? status == Z_STREAM_END : self->gzip.avail_in == 0) return true;
  }
}

bool compress_feed(compress_stream *self, const char *data, size_t length, bool last, bytes *out) {
  bool well = self->zstd != NULL ? feed_zstd(self, data, length, last, out)
                                 : feed_gzip(self, data, length, last, out);
  if (out->data != NULL) out->data[out->length] = '\0';
  return well;
}

void compress_free(compress_stream *self) {
  if (self == NULL) return;
  if (self->zstd != NULL) {
    ZSTD_freeCCtx(self->zstd);
  } else {
    deflateEnd(&self->gzip);
  }
  free(self);
}
