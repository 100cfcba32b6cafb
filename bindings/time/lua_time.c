/* lua_time.c: the table nebula.time. See meta/time.lua for what scripts see.
 *
 * Points in time are numbers: seconds since 1970 UTC, exact to the microsecond. */
#include <math.h>
#include <string.h>
#include <time.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "nebula.h"
#include "time/time_calendar.h"
#include "time/time_zone.h"

static const char ZONE_TYPE[] = "nebula.time.zone";

static double clock_seconds(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static int64_t now_microseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int time_now(lua_State *L) {
  lua_pushnumber(L, (double)now_microseconds() / 1e6);
  return 1;
}

static int time_monotonic(lua_State *L) {
  lua_pushnumber(L, clock_seconds(CLOCK_MONOTONIC));
  return 1;
}

static int64_t parse_text(lua_State *L, int index, const char *call) {
  size_t length, bad;
  int64_t microseconds;
  const char *expected, *text = lua_tolstring(L, index, &length);
  if (!time_parse(text, length, &microseconds, &bad, &expected)) {
    err_raisef(L, ERR_VALIDATION, NULL,
               "%s: \"%s\" is no time: expected %s at character %d (2026-11-22T17:58:03Z)", call,
               text, expected, (int)bad + 1);
  }
  return microseconds;
}

/* The point in time at index: seconds, text, or now where nothing is given. */
static int64_t check_time(lua_State *L, int index, const char *call) {
  switch (lua_type(L, index)) {
  case LUA_TNONE:
  case LUA_TNIL: return now_microseconds();
  case LUA_TSTRING: return parse_text(L, index, call);
  case LUA_TNUMBER: break;
  default:
    err_raisef(L, ERR_VALIDATION, NULL, "%s: a time is seconds since 1970 or ISO 8601 text, got %s",
               call, luaL_typename(L, index));
  }
  double microseconds = round(lua_tonumber(L, index) * 1e6);
  // A day within the ends, so that no zone leads beyond the years 1 to 9999.
  if (!(microseconds >= (double)TIME_LEAST + 864e8 && microseconds <= (double)TIME_MOST - 864e8)) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: %s seconds since 1970 lie outside the years 1 to 9999",
               call, luaL_tolstring(L, index, NULL));
  }
  return (int64_t)microseconds;
}

static int time_parse_text(lua_State *L) {
  static const char CALL[] = "time.parse";
  if (lua_type(L, 1) != LUA_TSTRING) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: wants text such as 2026-11-22T17:58:03Z, got %s", CALL,
               luaL_typename(L, 1));
  }
  const char *text = lua_tostring(L, 1);
  if (strcmp(text, "infinity") == 0 || strcmp(text, "-infinity") == 0) {
    lua_pushnumber(L, *text == '-' ? -HUGE_VAL : HUGE_VAL); // PostgreSQL's
  } else {
    lua_pushnumber(L, (double)parse_text(L, 1, CALL) / 1e6);
  }
  return 1;
}

/* ---- zones ---- */

typedef struct zone_box {
  time_zone *zone;
} zone_box;

static int zone_collect(lua_State *L) {
  zone_box *self = luaL_checkudata(L, 1, ZONE_TYPE);
  time_zone_free(self->zone);
  self->zone = NULL;
  return 0;
}

/* The offset of the zone named at index at this time. Upvalue 1 keeps the zones that were read. */
static time_offset zone_offset(lua_State *L, int index, int64_t microseconds, const char *call) {
  if (lua_type(L, index) != LUA_TSTRING) {
    err_raisef(L, ERR_VALIDATION, NULL,
               "%s: a zone is a name such as \"Europe/Berlin\" or \"UTC\", got %s", call,
               luaL_typename(L, index));
  }
  const char *name = lua_tostring(L, index);
  if (strcmp(name, "UTC") == 0) return (time_offset){.name = "UTC"};
  lua_pushvalue(L, index);
  if (lua_rawget(L, lua_upvalueindex(1)) == LUA_TNIL) {
    zone_box *box = lua_newuserdatauv(L, sizeof *box, 0);
    box->zone = NULL;
    luaL_setmetatable(L, ZONE_TYPE);
    time_zone_error error = time_zone_load(name, &box->zone);
    if (error == TIME_ZONE_NO_MEMORY) luaL_error(L, "not enough memory");
    if (error != TIME_ZONE_OK) {
      err_raisef(L, ERR_VALIDATION, NULL, "%s: %s \"%s\"; names are those of tzdata: Europe/Berlin",
                 call, error == TIME_ZONE_UNKNOWN ? "there is no zone" : "damaged data of zone",
                 name);
    }
    lua_pushvalue(L, index);
    lua_pushvalue(L, -2);
    lua_rawset(L, lua_upvalueindex(1));
  }
  const zone_box *box = luaL_checkudata(L, -1, ZONE_TYPE);
  int64_t second = microseconds / 1000000 - (microseconds % 1000000 < 0);
  return time_zone_at(box->zone, second);
}

static int time_format_text(lua_State *L) {
  static const char CALL[] = "time.format";
  lua_settop(L, 2);
  if (lua_type(L, 1) == LUA_TNUMBER && isinf(lua_tonumber(L, 1))) {
    lua_pushstring(L, lua_tonumber(L, 1) < 0 ? "-infinity" : "infinity");
    return 1;
  }
  int64_t at = check_time(L, 1, CALL);
  bool utc = lua_isnil(L, 2);
  int32_t offset = utc ? 0 : zone_offset(L, 2, at, CALL).seconds;
  char text[TIME_TEXT_MOST];
  lua_pushlstring(L, text, time_format(at, offset, utc, text));
  return 1;
}

static void set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

static int time_date(lua_State *L) {
  static const char CALL[] = "time.date";
  lua_settop(L, 2);
  int64_t at = check_time(L, 2, CALL);
  time_offset offset = {.name = "UTC"};
  if (!lua_isnil(L, 1)) offset = zone_offset(L, 1, at, CALL);
  time_fields fields = time_fields_at(at, offset.seconds);
  lua_createtable(L, 0, 12);
  set_integer(L, "year", fields.year);
  set_integer(L, "month", fields.month);
  set_integer(L, "day", fields.day);
  set_integer(L, "hour", fields.hour);
  set_integer(L, "min", fields.minute);
  set_integer(L, "sec", fields.second);
  set_integer(L, "usec", fields.microsecond);
  set_integer(L, "wday", fields.weekday + 1);
  set_integer(L, "yday", fields.yearday);
  set_integer(L, "offset", offset.seconds);
  lua_pushboolean(L, offset.daylight);
  lua_setfield(L, -2, "isdst");
  lua_pushstring(L, offset.name);
  lua_setfield(L, -2, "zone");
  return 1;
}

static int time_duration(lua_State *L) {
  lua_pushnumber(L, opt_to_duration(L, 1, "time.duration", "the duration"));
  return 1;
}

int lua_open_time(lua_State *L) {
  static const luaL_Reg FUNCTIONS[] = {
      {"date", time_date},
      {"duration", time_duration},
      {"format", time_format_text},
      {"monotonic", time_monotonic},
      {"now", time_now},
      {"parse", time_parse_text},
      {NULL, NULL},
  };
  luaL_newmetatable(L, ZONE_TYPE);
  lua_pushcfunction(L, zone_collect);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_newlibtable(L, FUNCTIONS);
  lua_newtable(L); // stack: time, zones
  luaL_setfuncs(L, FUNCTIONS, 1);
  return 1;
}
