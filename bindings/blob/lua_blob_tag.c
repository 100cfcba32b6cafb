/* lua_blob_tag.c: a store's tags: store:tag, and the option `tags`. */
#include <string.h>
#include <lauxlib.h>
#include "base/lua_bytes.h"
#include "base/lua_error.h"
#include "blob/lua_blob.h"

enum { KEY = 2, TAGS = 3 };
enum { TAGS_MOST = 10, NAME_MOST = 128, VALUE_MOST = 256 }; /* S3's; the last two in bytes here */

void blob_read_tags(lua_State *L, int index, const char *call, blob_wish *out) {
  if (!lua_istable(L, index))
    err_raisef(L, ERR_VALIDATION, "blob", "%s: tags must be a table of strings by name", call);
  int count = 0;
  for (lua_pushnil(L); lua_next(L, index) != 0; lua_pop(L, 1)) { // stack: ..., name, value
    if (lua_type(L, -2) != LUA_TSTRING || !lua_isstring(L, -1))
      err_raisef(L, ERR_VALIDATION, "blob", "%s: tags must be a table of strings by name", call);
    lua_pushvalue(L, -1); // stack: ..., name, value, value: as a string
    size_t name_length, length;
    const char *name = lua_tolstring(L, -3, &name_length), *value = lua_tolstring(L, -1, &length);
    if (name_length == 0 || name_length > NAME_MOST || strlen(name) != name_length ||
        length > VALUE_MOST || strlen(value) != length || ++count > TAGS_MOST)
      err_raisef(
          L, ERR_VALIDATION, "blob",
          "%s: an object has at most %d tags: names of 1 to %d bytes, values of up to %d, no "
          "NUL",
          call, TAGS_MOST, NAME_MOST, VALUE_MOST);
    bytes_append_char(&out->tags, '=');
    bytes_append(&out->tags, name, name_length + 1);
    bytes_append(&out->tags, value, length + 1);
    lua_pop(L, 1);
  }
  if (out->tags.failed) luaL_error(L, "not enough memory");
}

static void tags_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  self->error = blob_head(self->store, self->key.text, self->key.length, &self->info);
}

static int tags_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  blob_job *self = (blob_job *)context;
  if (self->error == BLOB_ABSENT) {
    lua_pushnil(L);
    return 1;
  }
  if (self->error != 0) blob_raise(L, self->base.class->call, &self->key, NULL, self->error);
  bytes tags = {0};
  blob_pairs_append(&tags, &self->info, true);
  lua_push_bytes(L, &tags);
  const char *at = lua_tostring(L, -1), *end = at + lua_rawlen(L, -1);
  lua_newtable(L);
  while (at < end) {
    const char *value = at + strlen(at) + 1;
    lua_pushstring(L, value);
    lua_setfield(L, -2, at + 1);
    at = value + strlen(value) + 1;
  }
  return 1;
}

static void tag_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  const bytes *tags = &self->wish.tags;
  self->error =
      blob_tag(self->store, self->key.text, self->key.length, bytes_text(tags), tags->length);
}

static int tag_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  blob_job *self = (blob_job *)context;
  if (self->error != 0) blob_raise(L, self->base.class->call, &self->key, NULL, self->error);
  return 0;
}

/* store:tag(key) -> tags; store:tag(key, tags) */
static int store_tag(lua_State *L) {
  static const lua_work_class READ = {
      .call = "store:tag", .run = tags_run, .destroy = blob_job_destroy};
  static const lua_work_class WRITE = {
      .call = "store:tag", .run = tag_run, .destroy = blob_job_destroy};
  lua_settop(L, TAGS);
  bool writes = !lua_isnil(L, TAGS);
  blob_job *self = blob_job_new(L, writes ? &WRITE : &READ, sizeof(blob_job), true);
  if (writes) blob_read_tags(L, TAGS, WRITE.call, &self->wish);
  return blob_job_wait(L, 1, writes ? tag_done : tags_done);
}

void blob_add_tag_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"tag", store_tag}, {NULL, NULL}};
  luaL_setfuncs(L, METHODS, 0);
}
