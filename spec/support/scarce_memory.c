/* scarce_memory.c: linked into a copy of the program, in which one allocation can be told to fail:
 * of the program's own C, or of its Lua state.
 *
 *   scarce(n) -> false                   the nth allocation of this thread from now on fails
 *   scarce() -> failed, allocations      no longer; whether it came to that, and how many there
 * were
 *
 * Lua asks again for what it did not get, after a full collection; so do our own states. That is
 * refused too. */
#include <stdbool.h>
#include <stdlib.h>
#include <lauxlib.h>
#include <lua.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
lua_State *__real_luaL_newstate(void);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
lua_State *__wrap_luaL_newstate(void);

static _Thread_local lua_Integer seen, fails_at;
static _Thread_local bool armed, failed, refuse_again;
static _Thread_local void *refused;
static _Thread_local size_t refused_size;

static bool is_refused(void *block, size_t size) {
  if (!armed) return false;
  seen++;
  if (refuse_again && block == refused && size == refused_size) {
    refuse_again = false;
    return true;
  }
  if (seen != fails_at) return false;
  failed = refuse_again = true;
  refused = block;
  refused_size = size;
  return true;
}

void *__wrap_malloc(size_t size) {
  return is_refused(NULL, size) ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size) {
  return is_refused(NULL, count * size) ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *block, size_t size) {
  return is_refused(block, size) ? NULL : __real_realloc(block, size);
}

static void *allocate(void *data, void *block, size_t old, size_t size) {
  (void)data;
  if (size == 0) {
    free(block);
    return NULL;
  }
  /* Lua counts on getting what is smaller. */
  bool grows = block == NULL || size > old;
  return grows && is_refused(block, size) ? NULL : __real_realloc(block, size);
}

static int scarce(lua_State *L) {
  bool was = failed;
  lua_Integer count = seen;
  armed = failed = refuse_again = false;
  seen = 0;
  if (!lua_isnoneornil(L, 1)) {
    fails_at = luaL_checkinteger(L, 1);
    lua_pushboolean(L, 0);
    armed = true;
    return 1;
  }
  lua_pushboolean(L, was);
  lua_pushinteger(L, count);
  return 2;
}

lua_State *__wrap_luaL_newstate(void) {
  lua_State *L = __real_luaL_newstate();
  if (L == NULL) return NULL;
  lua_setallocf(L, allocate, NULL);
  lua_register(L, "scarce", scarce);
  return L;
}
