/* lua_error.c: error objects. The contract is in lua_error.h. */
#include "base/lua_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <lauxlib.h>

#define METATABLE "nebula.error"

static const char *const KINDS[] = {
    ERR_DATABASE,  ERR_S3,     ERR_POOL,   ERR_TIMEOUT,       ERR_CANCELLED,       ERR_CONFLICT,
    ERR_FENCED,    ERR_CONFIG, ERR_POLICY, ERR_SCRIPT,        ERR_UNKNOWN_OUTCOME, ERR_NOT_FOUND,
    ERR_MIGRATION, ERR_IO,     ERR_LIMIT,  ERR_SERIALIZATION, ERR_VALIDATION,      NULL,
};

/* Registry key of {value, traceback}: where a value that cannot carry a traceback was raised. */
static const char NOTED;

/* "kind: message", with the code where there is one: one line, however many the message has. */
static int error_tostring(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_getfield(L, 1, "kind");
  lua_getfield(L, 1, "message");
  lua_getfield(L, 1, "code"); // stack: error, kind, message, code
  const char *message = luaL_tolstring(L, 3, NULL);
  message = luaL_gsub(L, message, "\n", " ");
  const char *kind = luaL_tolstring(L, 2, NULL);
  if (lua_isnil(L, 4)) {
    lua_pushfstring(L, "%s: %s", kind, message);
  } else {
    lua_pushfstring(L, "%s: %s [%s]", kind, message, luaL_tolstring(L, 4, NULL));
  }
  return 1;
}

static void set_metatable(lua_State *L) {
  if (luaL_newmetatable(L, METATABLE)) {
    lua_pushcfunction(L, error_tostring);
    lua_setfield(L, -2, "__tostring");
  }
  lua_setmetatable(L, -2);
}

static void set_string(lua_State *L, const char *name, const char *value) {
  if (value == NULL) return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
}

void err_push(lua_State *L, const err_info *info) {
  luaL_checkstack(L, 4, "error object");
  lua_createtable(L, 0, 6);
  set_string(L, "kind", info->kind);
  set_string(L, "source", info->source);
  set_string(L, "code", info->code);
  set_string(L, "message", info->message);
  set_string(L, "detail", info->detail);
  lua_pushboolean(L, info->retryable);
  lua_setfield(L, -2, "retryable");
  if (info->retry_after > 0) {
    lua_pushnumber(L, info->retry_after);
    lua_setfield(L, -2, "retry_after");
  }
  set_metatable(L);
}

void err_raise(lua_State *L, const err_info *info) {
  err_push(L, info);
  lua_error(L);
  __builtin_unreachable();
}

void err_raisef(lua_State *L, const char *kind, const char *source, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  err_raise(L, &(err_info){.kind = kind, .source = source, .message = text});
}

bool err_is(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TTABLE || !lua_getmetatable(L, index)) return false;
  luaL_getmetatable(L, METATABLE);
  bool same = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return same;
}

void err_note_traceback(lua_State *L) {
  int value = lua_gettop(L);
  if (err_is(L, value)) {
    lua_getfield(L, value, "traceback");
    bool has = !lua_isnil(L, -1);
    lua_pop(L, 1);
    if (has) return;
    luaL_traceback(L, L, NULL, 1);
    lua_setfield(L, value, "traceback");
    return;
  }
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &NOTED) != LUA_TTABLE) {
    lua_pop(L, 1);
    lua_createtable(L, 2, 0);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &NOTED);
  } // stack: ..., value, noted
  lua_pushvalue(L, value);
  lua_rawseti(L, -2, 1);
  luaL_traceback(L, L, NULL, 1);
  lua_rawseti(L, -2, 2);
  lua_pop(L, 1);
}

/* Pushes the traceback noted for the value at index, or makes one of this place. */
static void push_traceback(lua_State *L, int value) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &NOTED) == LUA_TTABLE) {
    lua_rawgeti(L, -1, 1);
    if (lua_rawequal(L, -1, value)) {
      lua_pop(L, 1);
      lua_rawgeti(L, -1, 2);
      lua_remove(L, -2);
      return;
    }
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  luaL_traceback(L, L, NULL, 1);
}

int err_handler(lua_State *L) {
  lua_settop(L, 1);
  if (lua_type(L, 1) == LUA_TSTRING || lua_type(L, 1) == LUA_TNUMBER) {
    push_traceback(L, 1);
    err_push(L, &(err_info){.kind = ERR_SCRIPT, .message = lua_tostring(L, 1)});
    lua_insert(L, -2); // stack: text, error, traceback
    lua_setfield(L, -2, "traceback");
    return 1;
  }
  if (!err_is(L, 1)) return 1; /* a script's own table is its own */
  lua_getfield(L, 1, "traceback");
  if (lua_isnil(L, -1)) {
    push_traceback(L, 1);
    lua_setfield(L, 1, "traceback");
  }
  lua_settop(L, 1);
  return 1;
}

/* nebula.error{kind=, message=, code=, source=, detail=, retryable=, retry_after=} */
static int error_new(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  static const char *const NAMES[] = {"kind",   "message",   "code",        "source",
                                      "detail", "retryable", "retry_after", NULL};
  lua_settop(L, 1);
  lua_newtable(L); // stack: options, error
  for (lua_pushnil(L); lua_next(L, 1) != 0;) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    bool known = false;
    for (int i = 0; NAMES[i] != NULL; i++)
      known = known || strcmp(name, NAMES[i]) == 0;
    if (!known) {
      err_raisef(L, ERR_VALIDATION, NULL, "nebula.error has no field '%s'", name);
    }
    lua_setfield(L, 2, name);
  }
  if (lua_getfield(L, 2, "kind") == LUA_TNIL) {
    lua_pushliteral(L, ERR_SCRIPT);
    lua_setfield(L, 2, "kind");
  } else {
    const char *kind = lua_tostring(L, -1);
    bool known = false;
    for (int i = 0; KINDS[i] != NULL; i++) {
      known = known || (kind != NULL && strcmp(kind, KINDS[i]) == 0);
    }
    if (!known) {
      err_raisef(L, ERR_VALIDATION, NULL, "nebula.error: '%s' is not a kind of error",
                 kind != NULL ? kind : luaL_typename(L, -1));
    }
  }
  lua_pop(L, 1);
  if (lua_getfield(L, 2, "message") != LUA_TSTRING) {
    err_raisef(L, ERR_VALIDATION, NULL, "nebula.error: message must be a string, got %s",
               luaL_typename(L, -1));
  }
  lua_pop(L, 1);
  lua_getfield(L, 2, "retryable");
  lua_pushboolean(L, lua_toboolean(L, -1));
  lua_setfield(L, 2, "retryable");
  lua_settop(L, 2);
  set_metatable(L);
  return 1;
}

void err_open(lua_State *L) {
  lua_pushcfunction(L, error_new);
  lua_setfield(L, -2, "error");
}
