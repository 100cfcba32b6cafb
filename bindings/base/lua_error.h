/* lua_error.h: the error objects that every part of the module raises.
 *
 * An error object is a table with the fields kind, message, source, code, retryable, retry_after,
 * detail and traceback, and a metatable whose __tostring gives one readable line. Lua errors are
 * made here and nowhere else; plain C code returns an enum and lets its glue call these. */
#ifndef NEBULA_BASE_LUA_ERROR_H
#define NEBULA_BASE_LUA_ERROR_H

#include <stdbool.h>
#include <lua.h>

/* What happened. The names are the contract of `err.kind`. */
#define ERR_DATABASE "database"
#define ERR_S3 "s3"
#define ERR_POOL "pool"
#define ERR_TIMEOUT "timeout"
#define ERR_CANCELLED "cancelled"
#define ERR_CONFLICT "conflict"
#define ERR_FENCED "fenced"
#define ERR_NOT_FOUND "not_found"
#define ERR_UNKNOWN_OUTCOME "unknown_outcome"
#define ERR_CONFIG "config"
#define ERR_MIGRATION "migration"
#define ERR_POLICY "policy"
#define ERR_SCRIPT "script"
#define ERR_IO "io"
#define ERR_SERIALIZATION "serialization"
#define ERR_VALIDATION "validation"
#define ERR_LIMIT "limit"

typedef struct err_info {
  const char *kind;    /* one of the ERR_ names */
  const char *source;  /* "database", "s3", "blob", or NULL */
  const char *code;    /* SQLSTATE, S3 code, errno name, or NULL */
  const char *message; /* one line for a person; never a secret */
  const char *detail;  /* more lines, or NULL */
  bool retryable;
  double retry_after; /* seconds; 0 where nobody said */
} err_info;

/* Pushes an error object. Raises on a lack of memory alone. */
void err_push(lua_State *L, const err_info *info);

/* Raises an error object. */
_Noreturn void err_raise(lua_State *L, const err_info *info);

/* Raises an error object of a kind with a formatted message (lua_pushfstring's conversions). */
_Noreturn void err_raisef(lua_State *L, const char *kind, const char *source, const char *format,
                          ...) __attribute__((format(printf, 4, 5)));

/* True where the value at index is an error object. */
bool err_is(lua_State *L, int index);

/* A message handler for lua_pcall(k): turns any value into an error object of kind `script` and
 * gives an object without a traceback the one of the place where it was raised. */
int err_handler(lua_State *L);

/* Remembers, for the value on top of the stack, where it was raised: in the error object itself, or
 * beside a value that cannot carry it, for the err_handler that meets the same value later. */
void err_note_traceback(lua_State *L);

/* Sets `error`, the constructor, in the table on top of the stack. */
void err_open(lua_State *L);

#endif
