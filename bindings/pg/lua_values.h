/* lua_values.h: pieces of decoding, for the glue that hands rows out one by one. */
#ifndef NEBULA_LUA_PG_VALUES_H
#define NEBULA_LUA_PG_VALUES_H

#include <libpq-fe.h>
#include <lua.h>

struct lua_pg_pool;

/* Pushes the value that the type's text means. */
void lua_pg_push_text(lua_State *L, Oid type, const char *text, size_t length);

/* Pushes the same value of the type's binary form, of a type that pg_binary_pays knows. */
void lua_pg_push_binary(lua_State *L, Oid type, const char *data, size_t length);

/* Pushes the table of an array's text; NULL elements are nebula.null. */
void lua_pg_push_array(lua_State *L, Oid element, const char *text, size_t length);

/* Pushes the names of the columns, one stack slot each. */
void lua_pg_push_names(lua_State *L, const PGresult *result);

/* Pushes the table of a row; `names` is the index of the first name. Values for the script's own
 * decoders are texts in it: see lua_pg_run_plan. */
void lua_pg_push_row(lua_State *L, const struct lua_pg_pool *pool, const PGresult *result, int row,
                     int names);

/* Gives the array on top `count` and `fields`, out of the way of pairs, ipairs and #. */
void lua_pg_describe_rows(lua_State *L, const PGresult *result);

/* Appends the table at index in PostgreSQL's array syntax. */
void lua_pg_write_array(lua_State *L, struct lua_pg_pool *pool, int index, Oid element, int depth);

#endif
