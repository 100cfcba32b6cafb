/* lua_editor.c: `nebula.editor`: the terminal as the prompt's Lua code (scripts/repl) sees it.
 *
 *   local editor = require("nebula.editor").open()
 *   local event, text, cursor = editor:read("> ")  -- "line" | "complete" | "interrupt" | "end"
 *
 * Ctrl-C at the prompt ends a read with "interrupt". While a line runs, `editor:run(Task)` has made
 * its task the one that Ctrl-C interrupts; a second Ctrl-C ends `editor:attend()`. */
#include "lua_host.h"

#include <string.h>
#include <lauxlib.h>
#include "async/task_host.h"
#include "base/lua_error.h"
#include "editor.h"
#include "runtime.h"

#define METATABLE "nebula.editor"

typedef struct lua_editor {
  editor *line;
  task_ticket ticket;
  const char *event;      /* what a read ended with */
  int interrupts;         /* since run() */
  bool attending;         /* a task waits in attend() */
  task_ticket attendance; /* its ticket */
} lua_editor;

static lua_editor *check(lua_State *L) {
  lua_editor *self = luaL_checkudata(L, 1, METATABLE);
  if (self->line == NULL) err_raisef(L, ERR_SCRIPT, NULL, "the editor is closed");
  return self;
}

static void wake(lua_editor *self, const char *event) {
  self->event = event;
  task_wake(self->ticket);
}

static void happened(void *data, editor_event event) {
  static const char *const names[] = {
      [EDITOR_LINE] = "line", [EDITOR_COMPLETE] = "complete", [EDITOR_END] = "end"};
  wake(data, names[event]);
}

/* Ctrl-C; `taken`: the running line's task has got it. */
static void interrupted(void *data, bool taken) {
  lua_editor *self = data;
  self->interrupts++;
  if (self->attending && self->interrupts > 1) task_wake(self->attendance);
  if (taken || self->line == NULL || !editor_reading(self->line)) return;
  editor_stop(self->line);
  wake(self, "interrupt");
}

static int editor_gc(lua_State *L) {
  lua_editor *self = luaL_checkudata(L, 1, METATABLE);
  if (self->line != NULL) editor_close(self->line);
  self->line = NULL;
  runtime_on_interrupt(runtime_of(L), NULL, NULL);
  return 0;
}

static int lua_editor_open(lua_State *L) {
  const char *problem;
  lua_editor *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (lua_editor){0};
  luaL_setmetatable(L, METATABLE);
  self->line = editor_open(&task_loop(L)->uv, happened, self, &problem);
  if (self->line == NULL) err_raisef(L, ERR_IO, NULL, "no prompt here: %s", problem);
  runtime_on_interrupt(runtime_of(L), interrupted, self);
  task_host_foreground(L, 0);
  return 1;
}

static void read_abandon(void *data) {
  lua_editor *self = data;
  if (self->line != NULL) editor_stop(self->line);
}

static int read_done(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_editor *self = check(L);
  size_t length, cursor;
  lua_pushstring(L, self->event);
  if (strcmp(self->event, "line") != 0 && strcmp(self->event, "complete") != 0) return 1;
  const char *text = editor_line(self->line, &length, &cursor);
  lua_pushlstring(L, text, length);
  lua_pushinteger(L, (lua_Integer)cursor);
  return 3;
}

/* read(prompt): a new line; read(): goes on with the line after "complete" */
static int lua_editor_read(lua_State *L) {
  lua_editor *self = check(L);
  const char *prompt = luaL_optstring(L, 2, NULL);
  self->ticket = task_wait_begin(L, "editor:read");
  if (prompt != NULL || !editor_reading(self->line)) {
    editor_read(self->line, prompt != NULL ? prompt : "");
  } else {
    editor_resume(self->line);
  }
  return task_wait(L, self->ticket, read_abandon, self, 0, read_done);
}

/* run(Task): Ctrl-C interrupts this one from now on, until it has ended; run(): none */
static int lua_editor_run(lua_State *L) {
  lua_editor *self = check(L);
  if (!lua_isnoneornil(L, 2)) luaL_checktype(L, 2, LUA_TUSERDATA);
  self->interrupts = 0;
  task_host_foreground(L, lua_isnoneornil(L, 2) ? 0 : 2);
  return 0;
}

static void attend_abandon(void *data) {
  lua_editor *self = data;
  self->attending = false;
}

static int attend_done(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lua_editor *self = luaL_checkudata(L, 1, METATABLE);
  self->attending = false;
  return 0;
}

/* attend(): waits for the second Ctrl-C since run() */
static int lua_editor_attend(lua_State *L) {
  lua_editor *self = check(L);
  self->attendance = task_wait_begin(L, "editor:attend");
  self->attending = true;
  return task_wait(L, self->attendance, attend_abandon, self, 0, attend_done);
}

static int lua_editor_insert(lua_State *L) {
  editor_insert(check(L)->line, luaL_checkstring(L, 2));
  return 0;
}

static int lua_editor_above(lua_State *L) {
  lua_editor *self = check(L);
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  editor_above(self->line, text, length);
  return 0;
}

static int lua_editor_resize(lua_State *L) {
  editor_resize(check(L)->line);
  return 0;
}

static int lua_editor_remember(lua_State *L) {
  editor_history_add(check(L)->line, luaL_checkstring(L, 2));
  return 0;
}

static int lua_editor_load(lua_State *L) {
  lua_pushboolean(L, editor_history_load(check(L)->line, luaL_checkstring(L, 2)));
  return 1;
}

static int lua_editor_save(lua_State *L) {
  lua_pushboolean(L, editor_history_save(check(L)->line, luaL_checkstring(L, 2)));
  return 1;
}

static const luaL_Reg METHODS[] = {{"read", lua_editor_read},
                                   {"run", lua_editor_run},
                                   {"attend", lua_editor_attend},
                                   {"insert", lua_editor_insert},
                                   {"above", lua_editor_above},
                                   {"resize", lua_editor_resize},
                                   {"remember", lua_editor_remember},
                                   {"load", lua_editor_load},
                                   {"save", lua_editor_save},
                                   {"close", editor_gc},
                                   {NULL, NULL}};

int lua_open_editor(lua_State *L) {
  luaL_newmetatable(L, METATABLE);
  lua_pushcfunction(L, editor_gc);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, editor_gc);
  lua_setfield(L, -2, "__close");
  luaL_newlib(L, METHODS);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, lua_editor_open);
  lua_setfield(L, -2, "open");
  return 1;
}
