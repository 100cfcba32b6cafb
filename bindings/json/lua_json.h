/* lua_json.h: JSON for other glue code: decode straight onto a Lua stack, encode from one.
 *
 * `call` names the caller in messages ("json.decode", "column payload"). All of it raises:
 *   serialization  text that is no JSON; a value that JSON cannot hold (the message has its path)
 *   limit          nesting deeper than allowed
 *   memory         Lua's own error
 *
 * null is the light userdata NULL (cjson's null as well); json_push_null and json_is_null are all
 * there is to it. Arrays carry a metatable that marks them, so that an empty one stays one. */
#ifndef NEBULA_LUA_JSON_H
#define NEBULA_LUA_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <lua.h>
#include "json/json_buffer.h"
#include "json/json_reader.h" /* JSON_DEPTH_MOST, JSON_DEPTH_DEFAULT */

typedef struct json_encode_options {
  unsigned max_depth; /* 1 to JSON_DEPTH_MOST */
  unsigned indent;    /* blanks a level; 0 for one line */
  bool sort_keys;     /* by bytes */
} json_encode_options;

static inline void json_push_null(lua_State *L) {
  lua_pushlightuserdata(L, NULL);
}

static inline bool json_is_null(lua_State *L, int index) {
  return lua_islightuserdata(L, index) && lua_touserdata(L, index) == NULL;
}

/* Pushes the value of the text. */
void json_decode_push(lua_State *L, const char *text, size_t length, unsigned max_depth,
                      const char *call);

/* Appends the value at index to *out, which stays the caller's whatever happens: it must be
 * anchored where an error cannot leak it. options may be NULL. Runs no Lua code. */
void json_encode_value(lua_State *L, int index, json_buffer *out,
                       const json_encode_options *options, const char *call);

/* Gives the table at index the mark of an array, or pushes the metatable that is the mark. */
void json_mark_array(lua_State *L, int index);
void json_push_array_mark(lua_State *L);
void json_push_object_mark(lua_State *L);

/* Pushes an exact number (a json.number userdata) with this well-formed token. */
void json_exact_push(lua_State *L, const char *text, size_t length);

/* The token of the json.number at index, terminated; NULL where it is something else. */
const char *json_exact_test(lua_State *L, int index, size_t *length);

/* Pushes the function json.number and prepares the metatable of its values. */
void json_exact_open(lua_State *L);

#endif
