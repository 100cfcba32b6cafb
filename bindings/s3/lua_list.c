/* lua_list.c: a Bucket's listings: objects and prefixes, page by page (ListObjectsV2). */
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include "base/lua_bytes.h"
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "http/uri.h"
#include "s3/lua_call.h"

static const char LISTER_TYPE[] = "nebula.s3.lister";

/* The state of one listing: a userdata, upvalue of its iterator. */
typedef struct lister {
  lua_s3_call call; /* first: the glue's waiting works on it; its document is the page */
  s3_client *client;
  const xml_node *object, *prefix; /* what comes next on the page */
  char *token;                     /* of the next page; NULL at the first */
  lua_Integer left;                /* how many entries may still be given */
  bool last, ended, busy;          /* last: no page follows this one */
} lister;

/* The iterator's upvalues. */
enum { UP_LISTER = 1, UP_OPTIONS };

static void lister_clear(lister *self) {
  lua_s3_call_clear(&self->call);
  free(self->token);
  self->token = NULL;
  self->object = self->prefix = NULL;
  self->ended = true;
  s3_client_release(self->client);
  self->client = NULL;
}

static int lister_gc(lua_State *L) {
  lister_clear(lua_touserdata(L, 1));
  return 0;
}

/* Keys come percent-encoded, so that every byte survives XML; a blank may be a plus. */
static void decode(bytes *out, const xml_node *node) {
  bytes text = {0};
  bytes_append(&text, node->text, node->text_length);
  for (size_t i = 0; i < text.length; i++) {
    if (text.data[i] == '+') text.data[i] = ' ';
  }
  out->failed = text.failed || !uri_decode(out, bytes_text(&text), text.length);
  bytes_free(&text);
}

static void set_decoded(lua_State *L, const char *name, const xml_node *node) {
  bytes plain = {0};
  if (node == NULL) return;
  decode(&plain, node);
  lua_push_bytes(L, &plain);
  lua_setfield(L, -2, name);
}

/* A page has its objects and its prefixes apart; they are given in one order, that of their bytes.
 */
static bool object_is_first(const lister *self) {
  if (self->object == NULL || self->prefix == NULL) return self->object != NULL;
  const xml_node *key = xml_child(self->object, "Key"), *name = xml_child(self->prefix, "Prefix");
  if (key == NULL || name == NULL) return true;
  bytes left = {0}, right = {0};
  decode(&left, key);
  decode(&right, name);
  size_t shorter = left.length < right.length ? left.length : right.length;
  int order = memcmp(bytes_text(&left), bytes_text(&right), shorter);
  bool first = order != 0 ? order < 0 : left.length <= right.length;
  bytes_free(&left);
  bytes_free(&right);
  return first;
}

static void push_object(lua_State *L, const xml_node *object) {
  lua_createtable(L, 0, 5);
  set_decoded(L, "key", xml_child(object, "Key"));
  const char *size = xml_value(object, "Size");
  if (size != NULL) {
    lua_pushinteger(L, strtoll(size, NULL, 10));
    lua_setfield(L, -2, "size");
  }
  lua_s3_set_etag(L, xml_value(object, "ETag"));
  lua_s3_set(L, "last_modified", xml_value(object, "LastModified"));
  lua_s3_set(L, "storage_class", xml_value(object, "StorageClass"));
}

/* Pushes the page's next entry; false at its end. */
static bool push_next(lua_State *L, lister *self) {
  if (self->left == 0) return false;
  if (object_is_first(self)) {
    push_object(L, self->object);
    self->object = xml_again(self->object);
  } else if (self->prefix != NULL) {
    lua_createtable(L, 0, 1);
    set_decoded(L, "prefix", xml_child(self->prefix, "Prefix"));
    self->prefix = xml_again(self->prefix);
  } else {
    return false;
  }
  self->left--;
  return true;
}

static int page_done(lua_State *L, int status, lua_KContext context);

static void add_option(lua_State *L, int options, lister *self, const char *option,
                       const char *parameter) {
  const char *value = NULL;
  if (opt_string(L, options, "bucket:list", option, &value, NULL))
    lua_s3_add(L, &self->call.query, parameter, value);
}

static int ask_for_page(lua_State *L, lister *self) {
  int options = lua_upvalueindex(UP_OPTIONS);
  s3_call_request request = {.what = "list", .method = "GET", .max_bytes = XML_BYTES_MOST};
  lua_s3_call_clear(&self->call);
  lua_s3_add(L, &self->call.query, "list-type", "2");
  lua_s3_add(L, &self->call.query, "encoding-type", "url");
  add_option(L, options, self, "prefix", "prefix");
  add_option(L, options, self, "delimiter", "delimiter");
  if (self->token != NULL) {
    lua_s3_add(L, &self->call.query, "continuation-token", self->token);
  } else {
    add_option(L, options, self, "start_after", "start-after");
  }
  lua_Integer page = 1000;
  opt_integer(L, options, "bucket:list", "page_size", 1, 1000, &page);
  if (page > self->left) page = self->left;
  lua_s3_add(L, &self->call.query, "max-keys", lua_pushfstring(L, "%I", (LUAI_UACINT)page));
  lua_pop(L, 1);
  opt_duration(L, options, "bucket:list", "deadline", &request.deadline);
  self->busy = true;
  return lua_s3_call_wait(L, &self->call, self->client, &request, 0, page_done);
}

static int next_entry(lua_State *L) {
  lister *self = lua_touserdata(L, lua_upvalueindex(UP_LISTER));
  if (self->busy && self->call.call == NULL) self->busy = false; /* its wait was cancelled */
  if (self->busy)
    err_raisef(L, ERR_SCRIPT, "s3", "bucket:list: two tasks cannot share one iterator");
  if (!self->ended && push_next(L, self)) return 1;
  if (self->ended || self->last || self->left == 0) {
    lister_clear(self);
    lua_pushnil(L);
    return 1;
  }
  return ask_for_page(L, self);
}

static int page_done(lua_State *L, int status, lua_KContext context) {
  (void)status, (void)context;
  lister *self = lua_touserdata(L, lua_upvalueindex(UP_LISTER));
  self->busy = false;
  lua_s3_call_check(L, &self->call);
  const xml_node *root = lua_s3_call_xml(L, &self->call, "ListBucketResult");
  self->object = xml_child(root, "Contents");
  self->prefix = xml_child(root, "CommonPrefixes");
  const char *more = xml_value(root, "IsTruncated"),
             *token = xml_value(root, "NextContinuationToken");
  free(self->token);
  self->token = NULL;
  if (more != NULL && strcmp(more, "true") == 0 && token != NULL && token[0] != '\0') {
    self->token = strdup(token);
    if (self->token == NULL) return luaL_error(L, "not enough memory");
  }
  self->last = self->token == NULL;
  if (push_next(L, self)) {
    /* the page is kept for the calls after this one */
  } else if (!self->last) {
    return ask_for_page(L, self);
  } else {
    lister_clear(self);
    lua_pushnil(L);
  }
  return 1;
}

/* bucket:list(options) -> iterator. Nothing is asked before the first step. */
static int bucket_list(lua_State *L) {
  static const char *const NAMES[] = {"prefix",    "delimiter", "start_after", "limit",
                                      "page_size", "deadline",  NULL};
  s3_client *client = lua_s3_client(L, 1);
  lua_settop(L, 2);
  opt_check(L, 2, "bucket:list", NAMES);
  lua_Integer limit = LUA_MAXINTEGER;
  opt_integer(L, 2, "bucket:list", "limit", 1, LUA_MAXINTEGER, &limit);
  lister *self = lua_newuserdatauv(L, sizeof *self, 0);
  memset(self, 0, sizeof *self);
  if (luaL_newmetatable(L, LISTER_TYPE)) {
    lua_pushcfunction(L, lister_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  self->client = s3_client_hold(client);
  self->left = limit;
  lua_pushvalue(L, 2); // stack: bucket, options, lister, options
  lua_pushcclosure(L, next_entry, 2);
  return 1;
}

void lua_s3_add_list_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"list", bucket_list}, {NULL, NULL}};
  luaL_setfuncs(L, METHODS, 0);
}
