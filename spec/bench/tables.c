/* tables.c: what the tables of a result cost without a server: the same rows, made of values that
 * are at hand. Prints the seconds of each round. See spec/bench/pg_decode.lua.
 *
 *   tables ROWS ROUNDS */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <lauxlib.h>
#include <lua.h>

enum { COLUMNS = 5, TEXTS = 2, ROOM = 48 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The texts of all rows, each with its length: "name <i>", and 32 digits. */
static char *make_texts(int rows) {
  char *texts = calloc((size_t)rows, TEXTS * ROOM);
  for (int i = 0; texts != NULL && i < rows; i++) {
    char *row = texts + (size_t)i * TEXTS * ROOM;
    row[0] = (char)snprintf(row + 1, ROOM - 1, "name %d", i + 1);
    unsigned long long mixed = (unsigned long long)i * 0x9e3779b97f4a7c15u;
    row[ROOM] = (char)snprintf(row + ROOM + 1, ROOM - 1, "%016llx%016llx", mixed, mixed ^ ~0ull);
  }
  return texts;
}

static void push_rows(lua_State *L, const char *texts, int rows) { // stack: the names, list
  lua_createtable(L, rows, 0);
  for (int i = 0; i < rows; i++) {
    const char *row = texts + (size_t)i * TEXTS * ROOM;
    lua_createtable(L, 0, COLUMNS);
    for (int k = 0; k < COLUMNS; k++) {
      lua_pushvalue(L, 1 + k);
      switch (k) {
      case 0: lua_pushinteger(L, i + 1); break;
      case 2: lua_pushboolean(L, i % 2); break;
      case 3: lua_pushnumber(L, sqrt(i + 1)); break;
      default: lua_pushlstring(L, row + (k > 1) * ROOM + 1, (size_t)row[(k > 1) * ROOM]); break;
      }
      lua_rawset(L, -3);
    }
    lua_rawseti(L, -2, i + 1);
  }
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  int rows = atoi(argv[1]);
  lua_State *L = luaL_newstate();
  char *texts = make_texts(rows);
  if (L == NULL || texts == NULL) return 1;
  static const char *const COLUMN[COLUMNS] = {"id", "name", "ok", "weight", "note"};
  for (int k = 0; k < COLUMNS; k++)
    lua_pushstring(L, COLUMN[k]);
  for (int round = atoi(argv[2]); round > 0; round--) {
    double began = now();
    push_rows(L, texts, rows);
    lua_pop(L, 1);
    printf("%.6f\n", now() - began);
  }
  lua_close(L);
  free(texts);
  return 0;
}
