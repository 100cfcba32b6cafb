/* strings.c: find, match, gmatch and gsub on the bounded matcher, rep with its size checked, and no
 * dump. They behave as Lua 5.4's own, apart from the bound. */
#include "sandbox/sandbox.h"

#include <string.h>
#include <lauxlib.h>
#include "sandbox/pattern.h"

enum { SLICE = 1 << 14 }; /* steps of the matcher between two looks at the limits */

static bool charge_slice(pattern_state *state) {
  bool may = sandbox_spend(state->data, SLICE - state->steps);
  state->steps = SLICE;
  return may;
}

/* One match, charged to the budget. */
static bool match_at(lua_State *L, pattern_state *state, const char *at, const char *pattern,
                     const char **end) {
  state->steps = SLICE;
  pattern_status status = pattern_match(state, at, pattern, end);
  sandbox_charge(L, SLICE - state->steps);
  if (status == PATTERN_MALFORMED) luaL_error(L, "%s", state->problem);
  return status == PATTERN_MATCHED;
}

static void push_capture(lua_State *L, const pattern_state *state, int i, const char *start,
                         const char *end) {
  if (i >= state->captures) {
    if (i != 0) luaL_error(L, "invalid capture index %%%d", i + 1);
    lua_pushlstring(L, start, (size_t)(end - start));
  } else if (state->capture[i].length == PATTERN_POSITION) {
    lua_pushinteger(L, state->capture[i].start - state->subject + 1);
  } else {
    lua_pushlstring(L, state->capture[i].start, (size_t)state->capture[i].length);
  }
}

static int push_captures(lua_State *L, const pattern_state *state, const char *start,
                         const char *end) {
  int count = state->captures == 0 && start != NULL ? 1 : state->captures;
  luaL_checkstack(L, count, "too many captures");
  for (int i = 0; i < count; i++)
    push_capture(L, state, i, start, end);
  return count;
}

static pattern_state prepare(lua_State *L, const char *subject, size_t length, const char *pattern,
                             size_t pattern_length) {
  return (pattern_state){.subject = subject,
                         .subject_end = subject + length,
                         .pattern_end = pattern + pattern_length,
                         .more = charge_slice,
                         .data = sandbox_of(L)};
}

/* The 0-based start that the optional argument means; past the end: length + 1. */
static size_t start_of(lua_State *L, int index, size_t length) {
  lua_Integer init = luaL_optinteger(L, index, 1);
  if (init > 0) return (lua_Unsigned)init - 1 > length ? length + 1 : (size_t)init - 1;
  if (init == 0 || init < -(lua_Integer)length) return 0;
  return (size_t)((lua_Integer)length + init);
}

static bool is_plain(const char *pattern, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (strchr("^$*+?.([%-", pattern[i]) != NULL && pattern[i] != 0) return false;
  return true;
}

static int find_or_match(lua_State *L, bool find) {
  size_t length, pattern_length;
  const char *subject = luaL_checklstring(L, 1, &length);
  const char *pattern = luaL_checklstring(L, 2, &pattern_length);
  size_t start = start_of(L, 3, length);
  if (start > length) {
    lua_pushnil(L);
    return 1;
  }
  if (find && (lua_toboolean(L, 4) || is_plain(pattern, pattern_length))) {
    sandbox_charge(L, (int64_t)(length - start) / 64);
    const char *found = memmem(subject + start, length - start, pattern, pattern_length);
    if (found == NULL) {
      lua_pushnil(L);
      return 1;
    }
    lua_pushinteger(L, found - subject + 1);
    lua_pushinteger(L, found - subject + (lua_Integer)pattern_length);
    return 2;
  }
  bool anchored = *pattern == '^';
  pattern_state state = prepare(L, subject, length, pattern, pattern_length);
  for (const char *at = subject + start, *end; at <= state.subject_end; at++) {
    if (match_at(L, &state, at, pattern + anchored, &end)) {
      if (!find) return push_captures(L, &state, at, end);
      lua_pushinteger(L, at - subject + 1);
      lua_pushinteger(L, end - subject);
      return push_captures(L, &state, NULL, NULL) + 2;
    }
    if (anchored) break;
  }
  lua_pushnil(L);
  return 1;
}

static int string_find(lua_State *L) {
  return find_or_match(L, true);
}

static int string_match(lua_State *L) {
  return find_or_match(L, false);
}

/* upvalues: subject, pattern, position, end of the last match (or -1) */
static int gmatch_next(lua_State *L) {
  size_t length, pattern_length;
  const char *subject = lua_tolstring(L, lua_upvalueindex(1), &length);
  const char *pattern = lua_tolstring(L, lua_upvalueindex(2), &pattern_length);
  size_t start = (size_t)lua_tointeger(L, lua_upvalueindex(3));
  lua_Integer last = lua_tointeger(L, lua_upvalueindex(4));
  if (start > length) return 0;
  pattern_state state = prepare(L, subject, length, pattern, pattern_length);
  for (const char *at = subject + start, *end; at <= state.subject_end; at++) {
    if (!match_at(L, &state, at, pattern, &end) || end - subject == last) continue;
    lua_pushinteger(L, end - subject);
    lua_copy(L, -1, lua_upvalueindex(3));
    lua_replace(L, lua_upvalueindex(4));
    return push_captures(L, &state, at, end);
  }
  return 0;
}

static int string_gmatch(lua_State *L) {
  size_t length;
  luaL_checklstring(L, 1, &length);
  luaL_checkstring(L, 2);
  size_t start = start_of(L, 3, length);
  lua_settop(L, 2);
  lua_pushinteger(L, (lua_Integer)start);
  lua_pushinteger(L, -1);
  lua_pushcclosure(L, gmatch_next, 4);
  return 1;
}

/* Appends a replacement text, its %0 to %9 and %% filled in. The text is at index 3. */
static void add_text(lua_State *L, luaL_Buffer *out, const pattern_state *state, const char *start,
                     const char *end) {
  size_t length;
  const char *text = lua_tolstring(L, 3, &length);
  for (size_t i = 0; i < length; i++) {
    if (text[i] != '%') {
      luaL_addchar(out, text[i]);
      continue;
    }
    char kind = ++i < length ? text[i] : 0;
    if (kind == '%') {
      luaL_addchar(out, '%');
    } else if (kind == '0') {
      luaL_addlstring(out, start, (size_t)(end - start));
    } else if (kind >= '1' && kind <= '9') {
      push_capture(L, state, kind - '1', start, end);
      luaL_tolstring(L, -1, NULL); // a position is a number
      lua_remove(L, -2);
      luaL_addvalue(out);
    } else {
      luaL_error(L, "invalid use of '%%' in replacement string");
    }
  }
}

/* Appends what replaces one match. */
static void add_replacement(lua_State *L, luaL_Buffer *out, const pattern_state *state,
                            const char *start, const char *end) {
  switch (lua_type(L, 3)) {
  case LUA_TFUNCTION:
    lua_pushvalue(L, 3);
    lua_call(L, push_captures(L, state, start, end), 1);
    break;
  case LUA_TTABLE:
    push_capture(L, state, 0, start, end);
    lua_gettable(L, 3);
    break;
  default: add_text(L, out, state, start, end); return;
  }
  if (!lua_toboolean(L, -1)) {
    lua_pop(L, 1);
    luaL_addlstring(out, start, (size_t)(end - start));
  } else if (!lua_isstring(L, -1)) {
    luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
  } else {
    luaL_addvalue(out);
  }
}

static int string_gsub(lua_State *L) {
  size_t length, pattern_length;
  const char *subject = luaL_checklstring(L, 1, &length);
  const char *pattern = luaL_checklstring(L, 2, &pattern_length);
  int type = lua_type(L, 3);
  luaL_argexpected(
      L, type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TFUNCTION || type == LUA_TTABLE,
      3, "string/function/table");
  lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)length + 1), count = 0;
  bool anchored = *pattern == '^';
  pattern_state state = prepare(L, subject, length, pattern, pattern_length);
  const char *at = subject, *last = NULL, *end;
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  while (count < most) {
    if (match_at(L, &state, at, pattern + anchored, &end) && end != last) {
      count++;
      add_replacement(L, &out, &state, at, end);
      at = last = end;
    } else if (at < state.subject_end) {
      luaL_addchar(&out, *at++);
    } else {
      break;
    }
    if (anchored) break;
  }
  luaL_addlstring(&out, at, (size_t)(state.subject_end - at));
  luaL_pushresult(&out);
  lua_pushinteger(L, count);
  return 2;
}

/* The stock rep, in upvalue 1, once the result's size was charged. */
static int string_rep(lua_State *L) {
  size_t length, separator = 0;
  luaL_checklstring(L, 1, &length);
  lua_Integer count = luaL_checkinteger(L, 2);
  luaL_optlstring(L, 3, "", &separator);
  if (count > 0) {
    double size = (double)count * (double)(length + separator);
    if (size > 1e9 || count > 100000000) return luaL_error(L, "resulting string too large");
    sandbox_charge(L, (int64_t)(size / 64) + count / 16);
  }
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, 1);
  return 1;
}

void sandbox_open_strings(lua_State *L) { // stack: ..., string
  static const luaL_Reg functions[] = {{"find", string_find},
                                       {"match", string_match},
                                       {"gmatch", string_gmatch},
                                       {"gsub", string_gsub},
                                       {NULL, NULL}};
  lua_pushnil(L);
  lua_setfield(L, -2, "dump");
  lua_getfield(L, -1, "rep");
  lua_pushcclosure(L, string_rep, 1);
  lua_setfield(L, -2, "rep");
  luaL_setfuncs(L, functions, 0);
}
