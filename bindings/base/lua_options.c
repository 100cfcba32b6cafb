/* lua_options.c: reading named options. The contract is in lua_options.h. */
#include "base/lua_options.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"

/* Levenshtein's distance over one row; names longer than the row do not match anything. */
static size_t edit_distance(const char *a, const char *b) {
  size_t row[64];
  size_t width = strlen(b);
  if (width >= sizeof row / sizeof row[0]) return SIZE_MAX;
  for (size_t j = 0; j <= width; j++)
    row[j] = j;
  for (size_t i = 1; a[i - 1] != '\0'; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= width; j++) {
      size_t above = row[j];
      size_t best = diagonal + (a[i - 1] != b[j - 1]);
      if (above + 1 < best) best = above + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      diagonal = above;
      row[j] = best;
    }
  }
  return row[width];
}

static _Noreturn void refuse_name(lua_State *L, const char *call, const char *got,
                                  const char *const names[]) {
  const char *nearest = NULL;
  size_t distance = 3; /* further away is no likely slip of the hand */
  luaL_Buffer list;
  luaL_buffinit(L, &list);
  for (int i = 0; names[i] != NULL; i++) {
    size_t d = edit_distance(got, names[i]);
    if (d < distance) {
      distance = d;
      nearest = names[i];
    }
    if (i > 0) luaL_addstring(&list, ", ");
    luaL_addstring(&list, names[i]);
  }
  luaL_pushresult(&list);
  if (nearest != NULL) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s has no option '%s': did you mean '%s'?", call, got,
               nearest);
  }
  err_raisef(L, ERR_VALIDATION, NULL, "%s has no option '%s'; it has %s", call, got,
             lua_tostring(L, -1));
}

void opt_check(lua_State *L, int index, const char *call, const char *const names[]) {
  if (lua_isnoneornil(L, index)) return;
  if (!lua_istable(L, index)) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s wants its options in a table, got %s", call,
               luaL_typename(L, index));
  }
  index = lua_absindex(L, index);
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING) {
      err_raisef(L, ERR_VALIDATION, NULL, "%s: options are named; found a %s as a name", call,
                 luaL_typename(L, -2));
    }
    const char *got = lua_tostring(L, -2);
    bool known = false;
    for (int i = 0; names[i] != NULL && !known; i++)
      known = strcmp(got, names[i]) == 0;
    if (!known) refuse_name(L, call, got, names);
  }
}

/* Pushes the option; false, with nothing pushed, where it is absent. */
static bool option_push(lua_State *L, int index, const char *name) {
  if (lua_isnoneornil(L, index)) return false;
  if (lua_getfield(L, index, name) != LUA_TNIL) return true;
  lua_pop(L, 1);
  return false;
}

static _Noreturn void refuse_value(lua_State *L, const char *call, const char *name,
                                   const char *wanted) {
  const char *got = lua_isnumber(L, -1) ? lua_tostring(L, -1) : luaL_typename(L, -1);
  err_raisef(L, ERR_VALIDATION, NULL, "%s: %s must be %s, got %s", call, name, wanted, got);
}

bool opt_boolean(lua_State *L, int index, const char *call, const char *name, bool *out) {
  if (!option_push(L, index, name)) return false;
  if (!lua_isboolean(L, -1)) refuse_value(L, call, name, "true or false");
  *out = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return true;
}

bool opt_integer(lua_State *L, int index, const char *call, const char *name, lua_Integer least,
                 lua_Integer most, lua_Integer *out) {
  if (!option_push(L, index, name)) return false;
  int exact = 0;
  lua_Integer value = lua_type(L, -1) == LUA_TNUMBER ? lua_tointegerx(L, -1, &exact) : 0;
  if (!exact || value < least || value > most) {
    lua_pushfstring(L, "an integer from %I to %I", (LUAI_UACINT)least, (LUAI_UACINT)most);
    lua_insert(L, -2); // stack: wanted, value
    refuse_value(L, call, name, lua_tostring(L, -2));
  }
  *out = value;
  lua_pop(L, 1);
  return true;
}

bool opt_number(lua_State *L, int index, const char *call, const char *name, double least,
                double most, double *out) {
  if (!option_push(L, index, name)) return false;
  double value = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : NAN;
  if (!(value >= least && value <= most)) {
    lua_pushfstring(L, "a number from %f to %f", least, most);
    lua_insert(L, -2); // stack: wanted, value
    refuse_value(L, call, name, lua_tostring(L, -2));
  }
  *out = value;
  lua_pop(L, 1);
  return true;
}

bool opt_string(lua_State *L, int index, const char *call, const char *name, const char **out,
                size_t *length) {
  if (!option_push(L, index, name)) return false;
  if (lua_type(L, -1) != LUA_TSTRING) refuse_value(L, call, name, "a string");
  *out = lua_tolstring(L, -1, length);
  lua_pop(L, 1);
  return true;
}

/* Seconds of "1h30m", "250ms", "30d"; negative where the text is no duration. */
static double duration_parse(const char *text) {
  static const struct {
    const char *unit;
    double seconds;
  } UNITS[] = {{"ms", 0.001}, {"us", 0.000001}, {"s", 1},      {"m", 60},
               {"h", 3600},   {"d", 86400},     {"w", 604800}, {NULL, 0}};
  double total = 0;
  if (*text == '\0') return -1;
  while (*text != '\0') {
    if (!isdigit((unsigned char)*text)) return -1;
    char *end = NULL;
    double amount = strtod(text, &end);
    size_t length = 0;
    while (isalpha((unsigned char)end[length]))
      length++;
    double scale = -1;
    for (int i = 0; UNITS[i].unit != NULL; i++) {
      if (strlen(UNITS[i].unit) == length && strncmp(UNITS[i].unit, end, length) == 0) {
        scale = UNITS[i].seconds;
      }
    }
    if (scale < 0) return -1;
    total += amount * scale;
    text = end + length;
  }
  return total;
}

double opt_to_duration(lua_State *L, int index, const char *call, const char *what) {
  double seconds = -1;
  if (lua_type(L, index) == LUA_TNUMBER) {
    seconds = lua_tonumber(L, index);
  } else if (lua_type(L, index) == LUA_TSTRING) {
    seconds = duration_parse(lua_tostring(L, index));
  }
  if (!(seconds >= 0)) {
    err_raisef(L, ERR_VALIDATION, NULL,
               "%s: %s must be a duration (seconds, or text such as \"90s\" or \"1h30m\"), got %s",
               call, what, luaL_tolstring(L, index, NULL));
  }
  return seconds;
}

bool opt_duration(lua_State *L, int index, const char *call, const char *name, double *seconds) {
  if (!option_push(L, index, name)) return false;
  *seconds = opt_to_duration(L, -1, call, name);
  lua_pop(L, 1);
  return true;
}
