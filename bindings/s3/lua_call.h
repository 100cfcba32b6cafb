/* lua_call.h: what the glue of every bucket method shares: waiting for a call, raising its failure,
 * tables of what came back. */
#ifndef NEBULA_S3_LUA_CALL_H
#define NEBULA_S3_LUA_CALL_H

#include <lua.h>
#include "async/task.h"
#include "s3/call.h"
#include "s3/xml.h"

#define S3_BUCKET_TYPE "nebula.s3.bucket"

/* The client of the Bucket at index; raises `validation` for anything else. */
s3_client *lua_s3_client(lua_State *L, int index);

/* The key at index, checked. Raises `validation`. */
const char *lua_s3_key(lua_State *L, int index, const char *call, size_t *length);

/* One call in flight, and what hangs on it; a userdata that its method keeps on its stack. */
typedef struct lua_s3_call {
  s3_call *call;
  task_ticket ticket;
  http_headers query, headers; /* filled by the method before it waits */
  xml_document *document;
} lua_s3_call;

/* Pushes an empty one. */
lua_s3_call *lua_s3_call_new(lua_State *L);

/* Starts the request (its query, headers, on_done and data are set here) and waits; `done` runs
 * when it has ended, well or not, with `index`, the userdata's place, as its context. Use as
 * `return lua_s3_call_wait(...)`. */
int lua_s3_call_wait(lua_State *L, lua_s3_call *self, s3_client *client, s3_call_request *request,
                     int index, lua_KFunction done);

/* Of an ended call: raises its failure. */
void lua_s3_call_check(lua_State *L, const lua_s3_call *self);

/* The same, but true where only the object is absent. */
bool lua_s3_call_absent(lua_State *L, const lua_s3_call *self);

/* Frees what the call holds before its userdata is collected. */
void lua_s3_call_clear(lua_s3_call *self);

/* Parses the answer, which must have this root. Raises `s3` where it is none. */
const xml_node *lua_s3_call_xml(lua_State *L, lua_s3_call *self, const char *root);

/* Adds to a list; raises where memory ends. */
void lua_s3_add(lua_State *L, http_headers *list, const char *name, const char *value);

_Noreturn void lua_s3_raise(lua_State *L, const s3_failure *failure);

/* Sets field `name` of the table on top, unless the value is NULL. */
void lua_s3_set(lua_State *L, const char *name, const char *value);

/* The same with the quotes of an ETag removed. */
void lua_s3_set_etag(lua_State *L, const char *value);

/* Pushes the table that describes an object, out of its answer's headers. */
void lua_s3_push_info(lua_State *L, const http_headers *headers, const char *key, size_t length);

/* Pushes { etag=, url=, version=, size= }, what every way to store an object returns; a negative
 * size is left out. */
void lua_s3_push_stored(lua_State *L, const s3_client *client, const char *key, size_t length,
                        const char *etag, const char *version, int64_t size);

/* Appends the headers that options of get, head, put and copy stand for; raises `validation`. */
void lua_s3_read_conditions(lua_State *L, int index, const char *call, http_headers *out);
void lua_s3_read_put_conditions(lua_State *L, int index, const char *call, http_headers *out);
void lua_s3_read_object_options(lua_State *L, int index, const char *call, http_headers *out);

/* Raises `validation` where the nth tag of an object is none that S3 takes. */
void lua_s3_check_tag(lua_State *L, const char *call, size_t nth, const char *name,
                      const char *value);

/* Of an ended HEAD of the object at stack index `key`: raises `conflict` where the conditions of a
 * write in `options` do not hold, else clears the call. The Bucket is the first argument. */
void lua_s3_call_hold_condition(lua_State *L, lua_s3_call *self, const char *call, int key,
                                int options);

/* The names that the ones above understand, for a method's list of options. */
#define S3_CONDITION_OPTIONS "if_match", "if_none_match"
#define S3_COPY_OPTIONS                                                                            \
  "content_type", "content_encoding", "content_disposition", "content_language", "cache_control",  \
      "metadata", "storage_class", "sse", "sse_kms_key_id"
#define S3_OBJECT_OPTIONS S3_COPY_OPTIONS, "tags"

/* Set the Bucket's methods of one file into the table on top. */
void lua_s3_add_object_methods(lua_State *L);
void lua_s3_add_copy_methods(lua_State *L);
void lua_s3_add_list_methods(lua_State *L);
void lua_s3_add_put_methods(lua_State *L);
void lua_s3_add_many_methods(lua_State *L);
void lua_s3_add_uploads_methods(lua_State *L);
void lua_s3_add_download_methods(lua_State *L);
void lua_s3_add_reader_methods(lua_State *L);
void lua_s3_add_bucket_methods(lua_State *L);

int lua_s3_sign(lua_State *L);

#endif
