/* lua_compress.h: the options `compress`, `level` and `decompress` of the stores' streams. */
#ifndef NEBULA_BASE_LUA_COMPRESS_H
#define NEBULA_BASE_LUA_COMPRESS_H

#include <lua.h>
#include "base/compress.h"
#include "base/decompress.h"

/* A writer's, for opt_check. */
#define COMPRESS_OPTIONS "compress", "level"

/* From the options at index of `call`, whose store is `source`; NULL: the bytes as they are. Raise
 * `validation`, and where there is no memory. */
compress_stream *lua_compress_open(lua_State *L, int index, const char *call, const char *source);
decompress_stream *lua_decompress_open(lua_State *L, int index, const char *call,
                                       const char *source);

#endif
