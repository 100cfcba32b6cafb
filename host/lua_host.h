/* lua_host.h: what the host's own Lua glue shares: the openers that runtime.c puts into
 * package.preload, and the values that hang off the state. */
#ifndef NEBULA_HOST_LUA_HOST_H
#define NEBULA_HOST_LUA_HOST_H

#define NEBULA_VERSION "0.1.0"

#include <stdbool.h>
#include <lua.h>

/* Openers of modules only the host has. Each pushes one table. */
int lua_open_editor(lua_State *L);   /* require "nebula.editor" */
int lua_open_httpd(lua_State *L);    /* require "nebula.httpd" */
int lua_open_process(lua_State *L);  /* require "nebula.process" */
int lua_open_sandbox(lua_State *L);  /* require "nebula.sandbox" */
int lua_open_socket(lua_State *L);   /* require "nebula.socket" */
int lua_open_system(lua_State *L);   /* require "nebula.system" */
int lua_open_terminal(lua_State *L); /* require "nebula.terminal" */
int lua_open_text(lua_State *L);     /* require "nebula.text" */

/* Pushes the directory of the scripts that belong to this program, or nil. */
void host_push_scripts(lua_State *L);

/* process.on_signal(name, fn | nil) -> the handler before. */
int host_signal_on(lua_State *L);

/* Reads "TERM", "SIGTERM" or 15. */
int host_signal_number(lua_State *L, int index, const char *call);

/* Starts the script's handler for this signal as a task; false where there is none. */
bool host_signal_handled(lua_State *L, int number);

/* Pushes the host's `require`, whose module chunks may wait. */
void lua_push_require(lua_State *L);

#endif
