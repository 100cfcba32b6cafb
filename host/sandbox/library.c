/* library.c: what sandboxed code may use: an allow-list, and replacements of what is dangerous in
 * it. Whatever is not named here does not exist inside. */
#include "sandbox/sandbox.h"

#include <string.h>
#include <lauxlib.h>
#include <lualib.h>

enum { TABLE_MOST = 10000000 }; /* elements that one call of the table library may walk */

static const char *const BASE[] = {"assert", "error",        "getmetatable", "ipairs",   "next",
                                   "pcall",  "rawequal",     "rawget",       "rawlen",   "rawset",
                                   "select", "setmetatable", "tonumber",     "tostring", "type",
                                   "xpcall", "pairs",        "_VERSION",     NULL};

/* ---- base ---- */

/* A finalizer runs where no limit holds: refused. */
static int safe_setmetatable(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  if (lua_istable(L, 2)) {
    lua_pushliteral(L, "__gc");
    if (lua_rawget(L, 2) != LUA_TNIL) return luaL_error(L, "__gc is not allowed in a sandbox");
    lua_pop(L, 1);
  }
  lua_settop(L, 2);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, 2, 1);
  return 1;
}

static bool succeeded(int status) {
  return status == LUA_OK || status == LUA_YIELD;
}

static int handler_done(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_pushboolean(L, 0);
  lua_replace(L, 1); // stack: false, what the handler returned
  return lua_gettop(L);
}

static int xpcall_done(lua_State *L, int status, lua_KContext context) { // stack: handler, ...
  (void)context;
  if (succeeded(status)) {
    lua_pushboolean(L, 1);
    lua_replace(L, 1);
    return lua_gettop(L);
  }
  lua_pushvalue(L, 1);
  lua_insert(L, -2); // stack: handler, handler, error
  lua_callk(L, 1, LUA_MULTRET, 0, handler_done);
  return handler_done(L, LUA_OK, 0);
}

/* Stock xpcall runs the handler where the error is, inside the hook where that raised it: and there
 * no hook runs, so that a handler could loop for ever. Here it runs after the call has unwound. */
static int safe_xpcall(lua_State *L) { // stack: function, handler, arguments
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_pushvalue(L, 1);
  lua_copy(L, 2, 1);
  lua_replace(L, 2); // stack: handler, function, arguments
  int status = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, xpcall_done);
  return xpcall_done(L, status, 0);
}

static int key_rank(lua_State *L, int index) {
  int type = lua_type(L, index);
  return type == LUA_TNUMBER ? 0 : type == LUA_TSTRING ? 1 : type == LUA_TBOOLEAN ? 2 : 3;
}

/* Whether key a comes before key b: numbers, then strings, then the rest as it comes. */
static bool key_before(lua_State *L, int a, int b) {
  int first = key_rank(L, a), second = key_rank(L, b);
  if (first != second) return first < second;
  return first <= 1 && lua_compare(L, a, b, LUA_OPLT);
}

/* Merge sort of list[1..count] of keys at `list`, through `spare`: no callback, bounded work. */
static void sort_keys(lua_State *L, int list, int spare, lua_Integer count) {
  for (lua_Integer width = 1; width < count; width *= 2) {
    for (lua_Integer low = 1; low <= count; low += 2 * width) {
      lua_Integer middle = low + width < count + 1 ? low + width : count + 1;
      lua_Integer high = low + 2 * width < count + 1 ? low + 2 * width : count + 1;
      lua_Integer left = low, right = middle;
      for (lua_Integer to = low; to < high; to++) {
        bool take_right = left == middle;
        lua_rawgeti(L, list, left);
        lua_rawgeti(L, list, right);
        if (left < middle && right < high) take_right = key_before(L, -1, -2);
        if (!take_right) lua_pop(L, 1);
        lua_rawseti(L, spare, to);
        if (take_right) lua_pop(L, 1);
        take_right ? right++ : left++;
      }
    }
    sandbox_charge(L, count);
    int swap = list;
    list = spare;
    spare = swap;
  }
  lua_pushvalue(L, list);
}

/* upvalues: the sorted keys, the position */
static int pairs_next(lua_State *L) {
  lua_Integer at = lua_tointeger(L, lua_upvalueindex(2));
  for (;;) {
    if (lua_rawgeti(L, lua_upvalueindex(1), ++at) == LUA_TNIL) return 1;
    lua_pushvalue(L, -1);
    if (lua_rawget(L, 1) != LUA_TNIL) break; // what was removed meanwhile is left out
    lua_pop(L, 2);
  }
  lua_pushinteger(L, at);
  lua_replace(L, lua_upvalueindex(2));
  return 2;
}

/* pairs in the order of the keys: the stock order depends on addresses and on the time of day, and
 * a policy must choose the same when it is replayed. */
static int sorted_pairs(lua_State *L) {
  luaL_checkany(L, 1);
  if (luaL_getmetafield(L, 1, "__pairs") != LUA_TNIL) {
    lua_pushvalue(L, 1);
    lua_call(L, 1, 3);
    return 3;
  }
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_newtable(L);
  lua_newtable(L); // stack: table, keys, spare
  lua_Integer count = 0;
  for (lua_pushnil(L); lua_next(L, 1);) {
    lua_pop(L, 1);
    lua_pushvalue(L, -1);
    lua_rawseti(L, 2, ++count);
  }
  sandbox_charge(L, count);
  sort_keys(L, 2, 3, count);
  lua_pushinteger(L, 0);
  lua_pushcclosure(L, pairs_next, 2);
  lua_pushvalue(L, 1);
  lua_pushnil(L);
  return 3;
}

/* ---- table ---- */

/* The stock function in upvalue 1, once what it may walk was charged. */
static int call_bounded(lua_State *L, lua_Integer walked) {
  if (walked > TABLE_MOST) return luaL_error(L, "more than %d elements", (int)TABLE_MOST);
  if (walked > 0) sandbox_charge(L, walked);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

/* insert and remove walk from the position to the end. */
static int bounded_shift(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  bool at_end = lua_gettop(L) < (lua_toboolean(L, lua_upvalueindex(2)) ? 3 : 2);
  lua_Integer length = luaL_len(L, 1);
  if (at_end) return call_bounded(L, 1);
  lua_Integer position = luaL_checkinteger(L, 2);
  return call_bounded(L, position < 1 || position > length ? 1 : length - position + 1);
}

static int bounded_sort(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_Integer length = luaL_len(L, 1), work = length;
  for (lua_Integer rest = length; rest > 1; rest /= 2)
    work += length; // n log n
  if (length > TABLE_MOST) return luaL_error(L, "more than %d elements", (int)TABLE_MOST);
  sandbox_charge(L, work);
  return call_bounded(L, 0);
}

/* concat and unpack name their range themselves. */
static int bounded_by_range(lua_State *L) {
  int first = lua_toboolean(L, lua_upvalueindex(2)) ? 3 : 2;
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_Integer from = luaL_optinteger(L, first, 1);
  lua_Integer to = lua_isnoneornil(L, first + 1) ? luaL_len(L, 1) : luaL_checkinteger(L, first + 1);
  return call_bounded(L, to < from ? 0 : (lua_Integer)((lua_Unsigned)to - (lua_Unsigned)from));
}

static int bounded_move(lua_State *L) {
  lua_Integer from = luaL_checkinteger(L, 2), to = luaL_checkinteger(L, 3);
  return call_bounded(L, to < from ? 0 : (lua_Integer)((lua_Unsigned)to - (lua_Unsigned)from));
}

/* Replaces a function by its wrapper; `third`: what the wrapper looks for is the third argument. */
static void wrap(lua_State *L, const char *name, lua_CFunction wrapper, bool third) {
  lua_getfield(L, -1, name);
  lua_pushboolean(L, third);
  lua_pushcclosure(L, wrapper, 2);
  lua_setfield(L, -2, name);
}

/* ---- coroutines ---- */

/* A limit that is hit inside a coroutine arms the hook of that one alone: who comes back from it in
 * another one is stopped here, or each level of a nest would go on for a while, and begin new ones.
 * upvalue: the stock function */
static int guarded_call(lua_State *L) {
  sandbox_charge(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  sandbox_charge(L, 1);
  if (status != LUA_OK) return lua_error(L);
  return lua_gettop(L);
}

/* upvalue: the stock coroutine.wrap */
static int guarded_wrap(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, 1);
  lua_pushcclosure(L, guarded_call, 1);
  return 1;
}

static void guard(lua_State *L, const char *name, lua_CFunction function) {
  lua_getfield(L, -1, name);
  lua_pushcclosure(L, function, 1);
  lua_setfield(L, -2, name);
}

/* ---- opening ---- */

static void open_base(lua_State *L) {
  luaL_requiref(L, LUA_GNAME, luaopen_base, 0);
  lua_newtable(L); // stack: stock globals, allowed
  for (const char *const *name = BASE; *name != NULL; name++) {
    lua_getfield(L, -2, *name);
    lua_setfield(L, -2, *name);
  }
  lua_getfield(L, -1, "setmetatable");
  lua_pushcclosure(L, safe_setmetatable, 1);
  lua_setfield(L, -2, "setmetatable");
  lua_pushcfunction(L, sorted_pairs);
  lua_setfield(L, -2, "pairs");
  lua_pushcfunction(L, safe_xpcall);
  lua_setfield(L, -2, "xpcall");
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, LUA_GNAME);
  lua_rawseti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  lua_pop(L, 1);
}

static void open_library(lua_State *L, const char *name, lua_CFunction opener) {
  lua_pushcfunction(L, opener);
  lua_call(L, 0, 1);
  lua_pushvalue(L, -1);
  lua_setglobal(L, name);
}

void sandbox_open_libraries(lua_State *L, lua_Integer seed) {
  open_base(L);
  open_library(L, LUA_COLIBNAME, luaopen_coroutine); // stack: ..., coroutine
  guard(L, "resume", guarded_call);
  guard(L, "close", guarded_call);
  guard(L, "wrap", guarded_wrap);
  open_library(L, LUA_UTF8LIBNAME, luaopen_utf8);
  open_library(L, LUA_MATHLIBNAME, luaopen_math); // stack: ..., math
  lua_getfield(L, -1, "randomseed");
  lua_pushvalue(L, -1);
  lua_setfield(L, LUA_REGISTRYINDEX, "randomseed");
  lua_pushinteger(L, seed);
  lua_call(L, 1, 0);
  lua_pushnil(L);
  lua_setfield(L, -2, "randomseed");
  open_library(L, LUA_TABLIBNAME, luaopen_table); // stack: ..., table
  wrap(L, "insert", bounded_shift, true);
  wrap(L, "remove", bounded_shift, false);
  wrap(L, "sort", bounded_sort, false);
  wrap(L, "concat", bounded_by_range, true);
  wrap(L, "unpack", bounded_by_range, false);
  wrap(L, "move", bounded_move, false);
  open_library(L, LUA_STRLIBNAME, luaopen_string); // stack: ..., string
  sandbox_open_strings(L);
  lua_settop(L, 0);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushnil(L);
  lua_setfield(L, -2, LUA_GNAME); // the stock globals are unreachable
  lua_pop(L, 1);
}
