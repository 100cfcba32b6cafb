/* lua_log.h: logging for other glue code: slow queries, leaked connections, retries.
 *
 * Records go to standard error, at the level that NEBULA_LOG says. Secrets are redacted by the
 * names of their fields and in URLs; see log_redact.h. */
#ifndef NEBULA_LUA_LOG_H
#define NEBULA_LUA_LOG_H

#include <stdbool.h>
#include <lua.h>
#include "log/log_record.h"

/* True where a record of this level would be written: ask before gathering costly fields. */
bool log_enabled(lua_State *L, log_level level);

/* Writes a record. `fields` is the index of a table by text keys, or 0. Raises on a lack of memory
 * alone; __tostring and __name of field values are honoured, errors in them are not let through. */
void log_write(lua_State *L, log_level level, const char *message, int fields);

#endif
