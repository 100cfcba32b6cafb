/* lua_log.c: the table nebula.log. See meta/log.lua for what scripts see.
 *
 * A record is made in two steps: first the fields' values become plain ones (which may run a
 * __tostring), in a table of their own; then the line is written into a buffer that all records of
 * the Lua state share, without running Lua code. */
#include "log/lua_log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "json/json_writer.h"
#include "json/lua_json.h"
#include "log/log_redact.h"
#include "nebula.h"

enum { FIELDS_MOST = 64, TEXT_MOST = 8 * 1024, ITEMS_MOST = 100, DEPTH_MOST = 6 };

typedef struct log_state {
  log_settings settings;
  json_buffer line;
} log_state;

static const char STATE_TYPE[] = "nebula.log.state";
static const char STATE_KEY; /* registry: the log_state of this Lua state */

static int state_collect(lua_State *L) {
  log_state *self = luaL_checkudata(L, 1, STATE_TYPE);
  json_buffer_free(&self->line);
  return 0;
}

/* The state, made at the first call from NEBULA_LOG. */
static log_state *state_of(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &STATE_KEY) == LUA_TNIL) {
    log_state *self = lua_newuserdatauv(L, sizeof *self, 0);
    *self = (log_state){0};
    if (luaL_newmetatable(L, STATE_TYPE)) {
      lua_pushcfunction(L, state_collect);
      lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &STATE_KEY);
    const char *text = getenv("NEBULA_LOG");
    if (!log_settings_parse(text, &self->settings)) {
      lua_createtable(L, 0, 2);
      lua_pushstring(L, text);
      lua_setfield(L, -2, "value");
      lua_pushliteral(L, "debug, info, warn, error or off, text:LEVEL or json:LEVEL");
      lua_setfield(L, -2, "expected");
      log_write(L, LOG_WARN, "NEBULA_LOG is not understood; logging at info", lua_gettop(L));
      lua_pop(L, 1);
    }
    lua_replace(L, -2);
  }
  log_state *self = lua_touserdata(L, -1);
  lua_pop(L, 1); // the registry keeps it
  return self;
}

bool log_enabled(lua_State *L, log_level level) {
  return level >= state_of(L)->settings.least;
}

/* ---- the second step: values as text; no Lua code runs ---- */

static bool write_value(lua_State *L, json_buffer *out, int depth);

static bool append(json_buffer *out, const char *text) {
  return json_buffer_append(out, text, strlen(text));
}

static bool write_number(lua_State *L, json_buffer *out) {
  if (lua_isinteger(L, -1)) return json_write_integer(out, lua_tointeger(L, -1));
  double value = lua_tonumber(L, -1);
  if (isfinite(value)) return json_write_double(out, value);
  return append(out, isnan(value) ? "\"nan\"" : value < 0 ? "\"-inf\"" : "\"inf\"");
}

static bool write_elements(lua_State *L, json_buffer *out, int table, int depth) {
  lua_Integer count = (lua_Integer)lua_rawlen(L, table);
  bool done = json_buffer_byte(out, '[');
  for (lua_Integer i = 1; done && i <= count; i++) {
    if (i > ITEMS_MOST) {
      done = append(out, ",\"...\"");
      break;
    }
    lua_rawgeti(L, table, i);
    done = (i == 1 || json_buffer_byte(out, ',')) && write_value(L, out, depth + 1);
    lua_pop(L, 1);
  }
  return done && json_buffer_byte(out, ']');
}

static bool write_members(lua_State *L, json_buffer *out, int table, int depth) {
  bool done = json_buffer_byte(out, '{');
  int count = 0;
  for (lua_pushnil(L); done && count <= ITEMS_MOST && lua_next(L, table) != 0; lua_pop(L, 1)) {
    char scratch[32]; // stack: key, value
    size_t length;
    const char *name = scratch;
    if (lua_type(L, -2) == LUA_TSTRING) {
      name = lua_tolstring(L, -2, &length);
    } else if (lua_isinteger(L, -2)) {
      length = (size_t)snprintf(scratch, sizeof scratch, LUA_INTEGER_FMT, lua_tointeger(L, -2));
    } else {
      length = (size_t)snprintf(scratch, sizeof scratch, "<%s>", luaL_typename(L, -2));
    }
    done = (count == 0 || json_buffer_byte(out, ',')) && log_json_text(out, name, length) &&
           json_buffer_byte(out, ':') &&
           (log_name_is_secret(name, length) ? append(out, "\"" LOG_REDACTED "\"")
                                             : write_value(L, out, depth + 1));
    count++;
  }
  if (count > ITEMS_MOST) lua_settop(L, table);
  return done && json_buffer_byte(out, '}');
}

/* Writes the value at the top as JSON, whatever it is, and leaves it there. */
static bool write_value(lua_State *L, json_buffer *out, int depth) {
  size_t length;
  const char *text;
  switch (lua_type(L, -1)) {
  case LUA_TNIL: return append(out, "null");
  case LUA_TBOOLEAN: return append(out, lua_toboolean(L, -1) ? "true" : "false");
  case LUA_TNUMBER: return write_number(L, out);
  case LUA_TSTRING:
    text = lua_tolstring(L, -1, &length);
    return log_json_text(out, text, length < TEXT_MOST ? length : TEXT_MOST);
  case LUA_TTABLE:
    if (depth >= DEPTH_MOST || !lua_checkstack(L, 8)) return append(out, "\"...\"");
    if (lua_rawlen(L, -1) > 0) return write_elements(L, out, lua_gettop(L), depth);
    return write_members(L, out, lua_gettop(L), depth);
  default: break;
  }
  if (json_is_null(L, -1)) return append(out, "null");
  text = json_exact_test(L, -1, &length);
  if (text != NULL) return json_buffer_append(out, text, length);
  text = lua_typename(L, lua_type(L, -1));
  return log_json_text(out, text, strlen(text));
}

static bool write_field(lua_State *L, log_state *self, const char *name, size_t length) {
  json_buffer *out = &self->line;
  if (!log_record_name(out, &self->settings, name, length)) return false;
  if (log_name_is_secret(name, length))
    return log_record_text(out, &self->settings, LOG_REDACTED, strlen(LOG_REDACTED));
  if (lua_type(L, -1) != LUA_TSTRING) return write_value(L, out, 0);
  size_t size;
  const char *text = lua_tolstring(L, -1, &size);
  return log_record_text(out, &self->settings, text, size < TEXT_MOST ? size : TEXT_MOST);
}

typedef struct field_name {
  const char *text;
  size_t length;
} field_name;

static int compare_names(const void *a, const void *b) {
  const field_name *left = a, *right = b;
  size_t shorter = left->length < right->length ? left->length : right->length;
  int order = memcmp(left->text, right->text, shorter);
  return order != 0 ? order : (left->length > right->length) - (left->length < right->length);
}

/* Writes the fields of the table at the top in the order of their names. */
static bool write_fields(lua_State *L, log_state *self) {
  field_name names[FIELDS_MOST];
  size_t count = 0;
  int table = lua_gettop(L);
  lua_pushnil(L);
  while (count < FIELDS_MOST && lua_next(L, table) != 0) {
    lua_pop(L, 1);
    names[count].text = lua_tolstring(L, -1, &names[count].length); // text keys alone are in it
    count++;
  }
  lua_settop(L, table);
  qsort(names, count, sizeof names[0], compare_names);
  bool done = true;
  for (size_t i = 0; done && i < count; i++) {
    lua_pushlstring(L, names[i].text, names[i].length);
    lua_rawget(L, table);
    done = write_field(L, self, names[i].text, names[i].length);
    lua_settop(L, table);
  }
  return done;
}

/* ---- the first step: fields of plain values ---- */

static int to_text(lua_State *L) {
  luaL_tolstring(L, 1, NULL);
  return 1;
}

/* Replaces the value at the top by its text where it has one of its own to give. */
static void make_plain(lua_State *L) {
  int type = lua_type(L, -1);
  if (type != LUA_TTABLE && type != LUA_TUSERDATA && type != LUA_TFUNCTION && type != LUA_TTHREAD)
    return;
  if (type == LUA_TTABLE && luaL_getmetafield(L, -1, "__tostring") == LUA_TNIL) return;
  if (type == LUA_TTABLE) lua_pop(L, 1);
  lua_pushcfunction(L, to_text);
  lua_insert(L, -2);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
    lua_pop(L, 1);
    lua_pushliteral(L, "<an error in __tostring>");
  }
}

/* Adds the fields of the table at index to the one at the top. */
static void add_fields(lua_State *L, int fields) {
  int target = lua_gettop(L);
  for (lua_pushnil(L); lua_next(L, fields) != 0; lua_pop(L, 1)) {
    make_plain(L);
    lua_pushvalue(L, -2); // stack: key, value, key
    if (lua_type(L, -1) != LUA_TSTRING) {
      luaL_tolstring(L, -1, NULL);
      lua_replace(L, -2);
    }
    lua_pushvalue(L, -2);
    lua_rawset(L, target);
  }
}

/* Writes the record whose plain fields, if any, are in the table at the top. */
static void write_record(lua_State *L, log_state *self, log_level level, const char *message,
                         size_t length, bool fields) {
  json_buffer_reset(&self->line, FIELDS_MOST * TEXT_MOST);
  if (log_record_begin(&self->line, &self->settings, level, message,
                       length < TEXT_MOST ? length : TEXT_MOST) &&
      (!fields || write_fields(L, self))) {
    log_record_write(&self->line, &self->settings, STDERR_FILENO);
  }
}

void log_write(lua_State *L, log_level level, const char *message, int fields) {
  log_state *self = state_of(L);
  if (level < self->settings.least) return;
  luaL_checkstack(L, 16, NULL);
  if (fields != 0) fields = lua_absindex(L, fields);
  lua_newtable(L);
  if (fields != 0) add_fields(L, fields);
  write_record(L, self, level, message, strlen(message), true);
  lua_pop(L, 1);
}

/* ---- what scripts call ---- */

static const char *const METHODS[] = {"debug", "info", "warn", "error"};

/* Upvalue 1: the level; upvalue 2: the logger's own fields, or nil. */
static int logger_log(lua_State *L) {
  log_level level = (log_level)lua_tointeger(L, lua_upvalueindex(1));
  log_state *self = state_of(L);
  if (level < self->settings.least) return 0;
  lua_settop(L, 2);
  size_t length;
  const char *message = luaL_tolstring(L, 1, &length);
  if (!lua_isnil(L, 2) && !lua_istable(L, 2)) {
    err_raisef(L, ERR_VALIDATION, NULL, "log.%s: the fields must be a table, got %s",
               METHODS[level], luaL_typename(L, 2));
  }
  bool fields = lua_istable(L, 2) || lua_istable(L, lua_upvalueindex(2));
  lua_newtable(L); // stack: message, fields, text, plain fields
  if (lua_istable(L, lua_upvalueindex(2))) {
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, -2);
    add_fields(L, lua_gettop(L) - 1);
  }
  if (lua_istable(L, 2)) add_fields(L, 2);
  write_record(L, self, level, message, length, fields);
  return 0;
}

static int logger_with(lua_State *L);

/* Pushes a logger with the fields at the top, or nil, and pops these. */
static void push_logger(lua_State *L) {
  lua_createtable(L, 0, 5);
  for (int level = LOG_DEBUG; level <= LOG_ERROR; level++) {
    lua_pushinteger(L, level);
    lua_pushvalue(L, -3);
    lua_pushcclosure(L, logger_log, 2);
    lua_setfield(L, -2, METHODS[level]);
  }
  lua_pushvalue(L, -2);
  lua_pushcclosure(L, logger_with, 1);
  lua_setfield(L, -2, "with");
  lua_replace(L, -2);
}

/* Upvalue 1: the logger's own fields, or nil. */
static int logger_with(lua_State *L) {
  if (!lua_istable(L, 1)) {
    err_raisef(L, ERR_VALIDATION, NULL, "log.with: the fields must be a table, got %s",
               luaL_typename(L, 1));
  }
  lua_settop(L, 1);
  lua_newtable(L);
  if (lua_istable(L, lua_upvalueindex(1))) {
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, -2); // stack: fields, inherited, merged
    add_fields(L, 2);
  }
  add_fields(L, 1);
  push_logger(L);
  return 1;
}

static int log_is_enabled(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  for (int level = LOG_DEBUG; level <= LOG_ERROR; level++) {
    if (strcmp(name, METHODS[level]) == 0) {
      lua_pushboolean(L, log_enabled(L, (log_level)level));
      return 1;
    }
  }
  err_raisef(L, ERR_VALIDATION, NULL,
             "log.enabled: there is no level '%s'; the levels are debug, "
             "info, warn and error",
             name);
}

/* redact(text) -> the text as a record would show it */
static int log_redact(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  json_buffer *out = &state_of(L)->line;
  json_buffer_reset(out, TEXT_MOST);
  if (!log_append_redacted(out, text, length)) return luaL_error(L, "not enough memory");
  lua_pushlstring(L, out->data, out->length);
  return 1;
}

int lua_open_log(lua_State *L) {
  (void)state_of(L);
  lua_pushnil(L);
  push_logger(L);
  lua_pushcfunction(L, log_is_enabled);
  lua_setfield(L, -2, "enabled");
  lua_pushcfunction(L, log_redact);
  lua_setfield(L, -2, "redact");
  return 1;
}
