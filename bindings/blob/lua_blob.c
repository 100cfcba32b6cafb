/* lua_blob.c: nebula.blob.open: a directory as a store of objects, with the methods of an S3
 * bucket. See meta/blob.lua for what scripts see, blob_object.h and blob_path.h for what lies on
 * the disk. */
#include "blob/lua_blob.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <lauxlib.h>
#include "base/lua_bytes.h"
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "crypto/crypto_text.h"
#include "http/headers.h"
#include "nebula.h"
#include "time/time_calendar.h"

static const char STORE_TYPE[] = "nebula.blob.store";

typedef struct store_box {
  blob_store *store;
  char *url; /* "file:" and the root, percent-encoded */
} store_box;

void blob_store_release(blob_store *self) {
  if (self == NULL || --self->holders > 0) return;
  free(self->root);
  free(self);
}

static int store_collect(lua_State *L) {
  store_box *self = luaL_checkudata(L, 1, STORE_TYPE);
  blob_store_release(self->store);
  free(self->url);
  *self = (store_box){0};
  return 0;
}

static const store_box *check_box(lua_State *L, const char *call) {
  const store_box *self = luaL_testudata(L, 1, STORE_TYPE);
  if (self == NULL || self->store == NULL) {
    err_raisef(L, ERR_VALIDATION, "blob",
               "%s: call it as a method of an open store: store:put(...)", call);
  }
  return self;
}

blob_store *blob_check_store(lua_State *L, const char *call) {
  return check_box(L, call)->store;
}

void blob_check_key(lua_State *L, int index, const char *call, blob_key *out) {
  if (lua_type(L, index) != LUA_TSTRING) {
    err_raisef(L, ERR_VALIDATION, "blob", "%s: the key must be a string, got %s", call,
               luaL_typename(L, index));
  }
  size_t length;
  const char *key = lua_tolstring(L, index, &length);
  const char *problem = blob_key_problem(key, length);
  if (problem != NULL) err_raisef(L, ERR_VALIDATION, "blob", "%s: %s", call, problem);
  memcpy(out->text, key, length);
  out->length = length;
}

/* ---- opening ---- */

/* The path of "file:/path" or "file:///path", or NULL. */
static const char *path_of_url(const char *url) {
  if (strncmp(url, "file:", 5) != 0) return NULL;
  const char *path = url + 5;
  if (strncmp(path, "//", 2) == 0) {
    path += 2;
    if (*path != '/') return NULL; // another host
  }
  return *path == '\0' ? NULL : path;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Appends a path, resolving %XX where it comes from a URL. */
static void append_path(bytes *out, const char *path, bool escaped) {
  for (; *path != '\0'; path++) {
    int high = escaped && *path == '%' ? hex_digit(path[1]) : -1;
    int low = high >= 0 ? hex_digit(path[2]) : -1;
    if (low >= 0 && high * 16 + low != 0) {
      bytes_append_char(out, (char)(high * 16 + low));
      path += 2;
    } else {
      bytes_append_char(out, *path);
    }
  }
}

static void set_root(lua_State *L, store_box *self, const char *path, bool escaped) {
  bytes root = {0}, url = {0};
  char here[PATH_MAX];
  append_path(&root, path, escaped);
  if (!root.failed && bytes_text(&root)[0] != '/' && getcwd(here, sizeof here) != NULL) {
    bytes relative = root;
    root = (bytes){0};
    bytes_format(&root, "%s/%s", here, bytes_text(&relative));
    bytes_free(&relative);
  }
  while (root.length > 1 && root.data[root.length - 1] == '/')
    root.data[--root.length] = '\0';
  bytes_append_text(&url, "file:");
  if (!root.failed) blob_url_append(&url, root.data, root.length);
  self->store = calloc(1, sizeof *self->store);
  if (self->store != NULL) {
    self->store->holders = 1;
    self->store->root = bytes_detach(&root);
  }
  self->url = bytes_detach(&url);
  bytes_free(&root);
  bytes_free(&url);
  if (self->store == NULL || self->store->root == NULL || self->url == NULL)
    luaL_error(L, "not enough memory");
}

static void prepare_run(lua_work *work) {
  blob_job *self = (blob_job *)work;
  self->error = blob_store_prepare(self->store);
}

static int prepare_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  blob_job *self = (blob_job *)context;
  if (self->error != 0) {
    const char *message = lua_pushfstring(L, "blob.open: cannot make or use the directory %s: %s",
                                          self->store->root, strerror(self->error));
    err_raise(L, &(err_info){.kind = ERR_IO,
                             .source = "blob",
                             .code = strerrorname_np(self->error),
                             .message = message});
  }
  lua_settop(L, 1);
  return 1;
}

static int blob_open(lua_State *L) {
  static const lua_work_class OPEN = {
      .call = "blob.open", .run = prepare_run, .destroy = blob_job_destroy};
  static const char *const OPTIONS[] = {"path", "url", NULL};
  const char *url = NULL, *path = NULL;
  size_t length = 0;
  luaL_checktype(L, 1, LUA_TTABLE);
  opt_check(L, 1, OPEN.call, OPTIONS);
  bool by_url = opt_string(L, 1, OPEN.call, "url", &url, &length);
  bool by_path = opt_string(L, 1, OPEN.call, "path", &path, &length);
  if (by_url) path = path_of_url(url);
  if (by_url == by_path || path == NULL || *path == '\0') {
    err_raisef(L, ERR_VALIDATION, "blob",
               "blob.open: wants a directory: url=\"file:/absolute/path\" or path=");
  }
  store_box *self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = (store_box){0};
  luaL_setmetatable(L, STORE_TYPE);
  set_root(L, self, path, by_url);
  lua_replace(L, 1);
  lua_settop(L, 1);
  (void)blob_job_new(L, &OPEN, sizeof(blob_job), false);
  return blob_job_wait(L, 1, prepare_done);
}

/* ---- options ---- */

static char *copy_text(lua_State *L, const char *text) {
  char *copy = strdup(text);
  if (copy == NULL) luaL_error(L, "not enough memory");
  return copy;
}

void blob_read_conditions(lua_State *L, int index, const char *call, blob_wish *out) {
  if (!lua_istable(L, index)) return;
  const char *etag;
  size_t length;
  char **const places[] = {&out->if_match, &out->if_none_match};
  static const char *const NAMES[] = {"if_match", "if_none_match"};
  for (size_t i = 0; i < 2; i++) {
    if (!opt_string(L, index, call, NAMES[i], &etag, &length)) continue;
    *places[i] = copy_text(L, etag);
    if (length >= 2 && etag[0] == '"' && etag[length - 1] == '"') {
      memmove(*places[i], etag + 1, length - 2);
      (*places[i])[length - 2] = '\0';
    }
  }
}

void blob_read_put_conditions(lua_State *L, int index, const char *call, blob_wish *out) {
  blob_read_conditions(L, index, call, out);
  if (out->if_none_match != NULL && strcmp(out->if_none_match, "*") != 0)
    err_raisef(L, ERR_VALIDATION, "blob",
               "%s: if_none_match must be \"*\": only where there is no object", call);
}

static void add_pair(lua_State *L, const char *call, blob_wish *out, const char *name,
                     const char *value, size_t length) {
  bool user = name[0] == '+';
  if (!http_header_is_valid(name + user, strlen(name + user), value, length))
    err_raisef(L, ERR_VALIDATION, "blob",
               "%s: %s%s: a name is letters, digits and hyphens, a value one line", call,
               user ? "metadata " : "", name + user);
  bytes_append(&out->pairs, name, strlen(name) + 1);
  bytes_append(&out->pairs, value, length + 1);
  if (out->pairs.failed) luaL_error(L, "not enough memory");
  out->has_pairs = true;
}

bool blob_push_progress(lua_State *L, int index, const char *call) {
  if (!lua_istable(L, index)) {
    lua_pushnil(L);
    return false;
  }
  int type = lua_getfield(L, index, "progress");
  if (type != LUA_TNIL && type != LUA_TFUNCTION)
    err_raisef(L, ERR_VALIDATION, "blob", "%s: progress must be a function(bytes)", call);
  return type == LUA_TFUNCTION;
}

static int told(lua_State *L, int status, lua_KContext context) {
  (void)L, (void)status, (void)context;
  return 1;
}

int blob_return_told(lua_State *L, int index, const char *call, uint64_t size) {
  if (!blob_push_progress(L, index, call)) {
    lua_pop(L, 1);
    return 1;
  }
  lua_pushinteger(L, (lua_Integer)size);
  lua_callk(L, 1, 0, 0, told);
  return 1;
}

static const char *const PLAIN_PAIRS[] = {"cache_control",    "content_disposition",
                                          "content_encoding", "content_language",
                                          "content_type",     NULL};

/* User metadata stand with a '+' before their name, in lower case as S3 has them. */
static void read_metadata(lua_State *L, int index, const char *call, blob_wish *out) {
  enum { METADATA_BYTES_MOST = 2048 }; // S3's
  int type = lua_getfield(L, index, "metadata");
  if (type != LUA_TNIL && type != LUA_TTABLE)
    err_raisef(L, ERR_VALIDATION, "blob", "%s: metadata must be a table of strings by name", call);
  size_t before = out->pairs.length;
  if (type == LUA_TNIL) {
    lua_pop(L, 1);
    return;
  }
  out->has_pairs = true;
  for (lua_pushnil(L); lua_next(L, -2) != 0; lua_pop(L, 1)) {
    // stack: metadata, name, value
    if (lua_type(L, -2) != LUA_TSTRING || !lua_isstring(L, -1)) {
      err_raisef(L, ERR_VALIDATION, "blob", "%s: metadata must be a table of strings by name",
                 call);
    }
    size_t length;
    lua_pushfstring(L, "+%s", lua_tostring(L, -2));
    lua_pushvalue(L, -2); // stack: metadata, name, value, "+name", value
    const char *value = lua_tolstring(L, -1, &length);
    char lower[256];
    const char *name = lua_tostring(L, -2);
    size_t size = strlen(name);
    if (size >= sizeof lower || size != lua_rawlen(L, -4) + 1)
      err_raisef(L, ERR_VALIDATION, "blob", "%s: metadata names have up to 254 bytes, no NUL",
                 call);
    for (size_t i = 0; i <= size; i++)
      lower[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
    add_pair(L, call, out, lower, value, length);
    lua_pop(L, 2);
  }
  lua_pop(L, 1);
  if (out->pairs.length - before > METADATA_BYTES_MOST)
    err_raisef(L, ERR_VALIDATION, "blob", "%s: metadata has more than %d bytes", call,
               METADATA_BYTES_MOST);
}

void blob_read_pairs(lua_State *L, int index, const char *call, blob_wish *out) {
  if (!lua_istable(L, index)) return;
  for (size_t i = 0; PLAIN_PAIRS[i] != NULL; i++) {
    const char *value;
    size_t length;
    if (opt_string(L, index, call, PLAIN_PAIRS[i], &value, &length))
      add_pair(L, call, out, PLAIN_PAIRS[i], value, length);
  }
  read_metadata(L, index, call, out);
  if (lua_getfield(L, index, "tags") != LUA_TNIL) blob_read_tags(L, lua_gettop(L), call, out);
  lua_pop(L, 1);
}

void blob_wish_free(blob_wish *self) {
  free(self->if_match);
  free(self->if_none_match);
  bytes_free(&self->pairs);
  bytes_free(&self->tags);
}

/* ---- jobs ---- */

blob_job *blob_job_new(lua_State *L, const lua_work_class *class, size_t size, bool keyed) {
  blob_store *store = blob_check_store(L, class->call);
  blob_job *self = lua_work_new(L, size, class);
  self->store = blob_store_hold(store);
  if (keyed) blob_check_key(L, 2, class->call, &self->key);
  return self;
}

int blob_job_wait(lua_State *L, int count, lua_KFunction done) {
  lua_createtable(L, count, 0);
  for (int i = 1; i <= count; i++) {
    lua_pushvalue(L, i);
    lua_rawseti(L, -2, i);
  }
  lua_work_anchor(L, -2);
  return lua_work_wait(L, -1, done);
}

void blob_job_destroy(lua_work *work) {
  blob_job *self = (blob_job *)work;
  blob_store_release(self->store);
  blob_wish_free(&self->wish);
  free(self->file);
  free(self->result);
  bytes_free(&self->keys);
  blob_info_free(&self->info);
}

static const char *remedy(int error) {
  switch (error) {
  case ENOSPC:
  case EDQUOT: return "; free some space";
  case EROFS:
  case EACCES:
  case EPERM: return "; make the directory writable for this user";
  case EMFILE:
  case ENFILE: return "; raise the limit of open files (ulimit -n)";
  default: return "";
  }
}

_Noreturn void blob_raise(lua_State *L, const char *call, const blob_key *key, const char *path,
                          int error) {
  const store_box *box = luaL_testudata(L, 1, STORE_TYPE);
  const char *root = box == NULL ? "the store" : box->store->root;
  err_info info = {.kind = ERR_IO, .source = "blob"};
  lua_pushlstring(L, key->text, key->length);
  const char *name = lua_tostring(L, -1);
  switch (error) {
  case BLOB_ABSENT:
    info.kind = ERR_NOT_FOUND;
    info.code = "NoSuchKey";
    info.message = lua_pushfstring(L, "%s: there is no object \"%s\" in %s", call, name, root);
    break;
  case BLOB_CONFLICT:
    info.kind = ERR_CONFLICT;
    info.code = "PreconditionFailed";
    info.message = lua_pushfstring(
        L, "%s: the condition on \"%s\" does not hold: it exists, or has another ETag", call, name);
    break;
  case BLOB_UNCHANGED:
    info.kind = ERR_CONFLICT;
    info.code = "NotModified";
    info.message =
        lua_pushfstring(L, "%s: \"%s\" is still the object that the condition names", call, name);
    break;
  case BLOB_DAMAGED:
    info.code = "BadDigest";
    info.message =
        lua_pushfstring(L, "%s: \"%s\" in %s is damaged: its bytes are not those that were stored",
                        call, name, root);
    break;
  case BLOB_LARGE:
    info.kind = ERR_LIMIT;
    info.message = lua_pushfstring(
        L, "%s: \"%s\" has more bytes than max_bytes allows; use reader or download", call, name);
    break;
  case BLOB_OUTSIDE:
    info.kind = ERR_VALIDATION;
    info.code = "InvalidRange";
    info.message = lua_pushfstring(L, "%s: the range lies outside of \"%s\"", call, name);
    break;
  case BLOB_ABORTED:
    info.kind = ERR_NOT_FOUND;
    info.code = "NoSuchUpload";
    info.message = lua_pushfstring(
        L, "%s: \"%s\" is not stored: its upload was aborted while it was written", call, name);
    break;
  case BLOB_NO_STREAM:
    info.kind = ERR_SERIALIZATION;
    info.message = lua_pushfstring(
        L, "%s: \"%s\" is not compressed as decompress says, or is cut short", call, name);
    break;
  default:
    info.code = strerrorname_np(error);
    if (path != NULL) {
      info.message = lua_pushfstring(L, "%s: %s: %s", call, path, strerror(error));
    } else {
      info.message = lua_pushfstring(L, "%s: \"%s\" in %s: %s%s", call, name, root, strerror(error),
                                     remedy(error));
    }
  }
  err_raise(L, &info);
}

/* ---- what came back ---- */

static void set_common(lua_State *L, const blob_info *info) {
  char text[2 * BLOB_DIGEST];
  crypto_hex(info->digest, BLOB_DIGEST, text);
  lua_pushlstring(L, text, sizeof text);
  lua_setfield(L, -2, "etag");
  lua_pushinteger(L, (lua_Integer)info->size);
  lua_setfield(L, -2, "size");
  char time[TIME_TEXT_MOST];
  lua_pushlstring(L, time, time_format(info->modified, 0, true, time));
  lua_setfield(L, -2, "last_modified");
}

static void push_url(lua_State *L, const blob_key *key) {
  const store_box *self = check_box(L, "store:url");
  bytes url = {0};
  bytes_format(&url, "%s/", self->url);
  blob_url_append(&url, key->text, key->length);
  lua_push_bytes(L, &url);
}

void blob_push_stored(lua_State *L, const blob_key *key, const blob_info *info) {
  lua_createtable(L, 0, 4);
  set_common(L, info);
  push_url(L, key);
  lua_setfield(L, -2, "url");
}

void blob_push_info(lua_State *L, const char *key, size_t length, const blob_info *info) {
  lua_createtable(L, 0, 8);
  lua_pushlstring(L, key, length);
  lua_setfield(L, -2, "key");
  set_common(L, info);
  lua_newtable(L); // stack: info, metadata
  const char *at = info->pairs, *end = info->pairs + info->pairs_length;
  while (at < end) {
    const char *value = at + strlen(at) + 1;
    if (value >= end) break;
    lua_pushstring(L, value);
    if (*at == '=') {
      lua_pop(L, 1); // a tag: store:tag tells it
    } else {
      lua_setfield(L, *at == '+' ? -2 : -3, *at == '+' ? at + 1 : at);
    }
    at = value + strlen(value) + 1;
  }
  lua_setfield(L, -2, "metadata");
}

static int store_url(lua_State *L) {
  const store_box *self = check_box(L, "store:url");
  blob_key key;
  if (lua_isnoneornil(L, 2)) {
    lua_pushstring(L, self->url);
  } else {
    blob_check_key(L, 2, "store:url", &key);
    push_url(L, &key);
  }
  return 1;
}

static int store_tostring(lua_State *L) {
  lua_pushfstring(L, "blob store at %s", blob_check_store(L, "tostring")->root);
  return 1;
}

/* Nothing is open between two calls: only to be closed like a bucket. */
static int store_close(lua_State *L) {
  (void)check_box(L, "store:close");
  return 0;
}

int lua_open_blob(lua_State *L) {
  static const luaL_Reg FUNCTIONS[] = {{"open", blob_open}, {NULL, NULL}};
  static const luaL_Reg META[] = {
      {"__gc", store_collect}, {"__tostring", store_tostring}, {NULL, NULL}};
  static const luaL_Reg METHODS[] = {{"close", store_close}, {"url", store_url}, {NULL, NULL}};
  luaL_newmetatable(L, STORE_TYPE);
  luaL_setfuncs(L, META, 0);
  luaL_newlib(L, METHODS);
  blob_add_put_methods(L);
  blob_add_read_methods(L);
  blob_add_object_methods(L);
  blob_add_list_methods(L);
  blob_add_tag_methods(L);
  blob_add_store_methods(L);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newlib(L, FUNCTIONS);
  return 1;
}
