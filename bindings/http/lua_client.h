/* lua_client.h: what the glue of every HTTP user shares: the client of a Lua state, header tables,
 * times as HTTP writes them. */
#ifndef NEBULA_HTTP_LUA_CLIENT_H
#define NEBULA_HTTP_LUA_CLIENT_H

#include <lua.h>
#include "http/client.h"
#include "http/headers.h"

/* The client of this Lua state, made at the first call: nothing of libcurl is touched before. */
http_client *lua_http_client(lua_State *L);

/* Pushes an empty list of headers that is freed with its userdata: anchored before it is filled. */
http_headers *lua_http_headers_new(lua_State *L);

/* Reads a table into the list: { name = value, ... } (a value may be a list of values), or
 * { { name, value }, ... } where order matters. Raises `validation` for names and values that
 * cannot stand in a header line. */
void lua_http_headers_read(lua_State *L, int index, const char *call, const char *option,
                           http_headers *out);

/* Adds one header; raises the same. */
void lua_http_headers_add(lua_State *L, const char *call, http_headers *out, const char *name,
                          const char *value, size_t length);

/* Pushes a table by lower-case name; repeated headers are joined with ", ". */
void lua_http_headers_push(lua_State *L, const http_headers *headers);

#endif
