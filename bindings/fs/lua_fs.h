/* lua_fs.h: what the glue of nebula.fs shares: its errors, its jobs, the handles and the iterators.
 */
#ifndef NEBULA_LUA_FS_H
#define NEBULA_LUA_FS_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

/* Raises an `io` error: "call: path: No such file or directory", its code the errno's name. */
_Noreturn void fs_raise(lua_State *L, const char *call, const char *path, int error);

/* The path at index; raises `validation` where it is no text, empty, or holds a NUL. */
const char *fs_check_path(lua_State *L, int index, const char *call);

/* fs.open, fs.list, fs.walk, and the metatables of what they give. */
int fs_open(lua_State *L);
int fs_stdin(lua_State *L);
int fs_list(lua_State *L);
int fs_walk_tree(lua_State *L);
void fs_open_files(lua_State *L);
void fs_open_walks(lua_State *L);

#endif
