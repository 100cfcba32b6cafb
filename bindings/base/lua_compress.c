/* lua_compress.c: see lua_compress.h. */
#include "base/lua_compress.h"

#include <lauxlib.h>
#include <string.h>
#include "base/lua_error.h"
#include "base/lua_options.h"

static bool read_kind(lua_State *L, int index, const char *call, const char *source,
                      const char *option, compress_kind *out) {
  const char *kind = NULL;
  if (!opt_string(L, index, call, option, &kind, NULL)) return false;
  *out = strcmp(kind, "zstd") == 0 ? COMPRESS_ZSTD : COMPRESS_GZIP;
  if (*out == COMPRESS_GZIP && strcmp(kind, "gzip") != 0)
    err_raisef(L, ERR_VALIDATION, source, "%s: %s must be \"zstd\" or \"gzip\", got \"%s\"", call,
               option, kind);
  return true;
}

compress_stream *lua_compress_open(lua_State *L, int index, const char *call, const char *source) {
  compress_kind kind;
  lua_Integer level = 0;
  if (!read_kind(L, index, call, source, "compress", &kind)) {
    if (opt_integer(L, index, call, "level", 1, COMPRESS_ZSTD_MOST, &level))
      err_raisef(L, ERR_VALIDATION, source, "%s: level is of compress, which is not set", call);
    return NULL;
  }
  bool zstd = kind == COMPRESS_ZSTD;
  level = zstd ? COMPRESS_ZSTD_USUAL : COMPRESS_GZIP_USUAL;
  opt_integer(L, index, call, "level", 1, zstd ? COMPRESS_ZSTD_MOST : COMPRESS_GZIP_MOST, &level);
  compress_stream *stream = compress_new(kind, (int)level);
  if (stream == NULL) luaL_error(L, "not enough memory");
  return stream;
}

decompress_stream *lua_decompress_open(lua_State *L, int index, const char *call,
                                       const char *source) {
  compress_kind kind;
  if (!read_kind(L, index, call, source, "decompress", &kind)) return NULL;
  decompress_stream *stream = decompress_new(kind);
  if (stream == NULL) luaL_error(L, "not enough memory");
  return stream;
}
