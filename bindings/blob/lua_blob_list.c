/* lua_blob_list.c: a store's list: an iterator that takes a page of entries from the thread pool
 * and hands them out one by one. */
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "blob/blob_list.h"
#include "blob/lua_blob.h"

enum { PAGE_MOST = 1000 };

static const char LIST_TYPE[] = "nebula.blob.list";

typedef struct listing {
  blob_lister *lister;
  size_t count, next; /* of the page */
  size_t page;        /* how many entries a page has */
  uint64_t left;      /* how many may still be given */
  bool last, busy, dropped;
  int error;
  blob_entry entries[PAGE_MOST];
} listing;

typedef struct list_job {
  lua_work base;
  listing *listing;
} list_job;

static void listing_clear(listing *self) {
  while (self->count > 0)
    blob_entry_free(&self->entries[--self->count]);
  self->next = 0;
}

static void listing_free(listing *self) {
  listing_clear(self);
  blob_lister_free(self->lister);
  free(self);
}

static void job_begun(lua_work *work) {
  listing *self = ((list_job *)work)->listing;
  listing_clear(self);
  self->busy = true;
}

static void job_run(lua_work *work) {
  listing *self = ((list_job *)work)->listing;
  size_t most = self->left < self->page ? (size_t)self->left : self->page;
  self->error = blob_lister_next(self->lister, self->entries, most, &self->count);
  self->last = self->count < most;
}

static void job_ended(lua_work *work) {
  listing *self = ((list_job *)work)->listing;
  self->busy = false;
  if (self->dropped) listing_free(self);
}

static int push_entry(lua_State *L, listing *self) {
  blob_entry *entry = &self->entries[self->next++];
  self->left--;
  if (entry->is_prefix || entry->is_damaged) {
    lua_createtable(L, 0, 2);
    lua_pushlstring(L, entry->text, entry->length);
    lua_setfield(L, -2, entry->is_prefix ? "prefix" : "key");
    if (entry->is_damaged) {
      lua_pushboolean(L, 1);
      lua_setfield(L, -2, "damaged");
    }
  } else {
    blob_push_info(L, entry->text, entry->length, &entry->info);
  }
  return 1;
}

static int page_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  listing *self = ((list_job *)context)->listing;
  if (self->error != 0) {
    blob_key prefix = {.length = 0};
    self->left = 0;
    lua_getiuservalue(L, lua_upvalueindex(1), 1);
    lua_insert(L, 1); // the store
    blob_raise(L, "store:list", &prefix, NULL, self->error);
  }
  if (self->count > 0) return push_entry(L, self);
  lua_pushnil(L);
  return 1;
}

/* The iterator; upvalue 1 is the listing. */
static int next_entry(lua_State *L) {
  static const lua_work_class PAGE = {
      .call = "store:list", .run = job_run, .begun = job_begun, .ended = job_ended};
  listing *self = *(listing **)lua_touserdata(L, lua_upvalueindex(1));
  lua_settop(L, 0);
  if (self == NULL) return 0;
  if (self->busy)
    err_raisef(L, ERR_SCRIPT, "blob", "store:list: two tasks cannot share one iterator");
  if (self->left > 0 && self->next < self->count) return push_entry(L, self);
  if (self->left == 0 || self->last) return 0;
  list_job *job = lua_work_new(L, sizeof *job, &PAGE);
  job->listing = self;
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_work_anchor(L, -2);
  return lua_work_wait(L, -1, page_done);
}

static int listing_collect(lua_State *L) {
  listing **box = luaL_checkudata(L, 1, LIST_TYPE);
  listing *self = *box;
  *box = NULL;
  if (self == NULL) return 0;
  self->dropped = self->busy;
  if (!self->busy) listing_free(self);
  return 0;
}

static int listing_close(lua_State *L) {
  lua_settop(L, 1);
  return listing_collect(L);
}

static void read_text(lua_State *L, const char *name, const char **text, size_t *length) {
  *text = "";
  *length = 0;
  if (!lua_istable(L, 2) || !opt_string(L, 2, "store:list", name, text, length)) return;
  if (*length > BLOB_KEY_MOST)
    err_raisef(L, ERR_VALIDATION, "blob", "store:list: %s has more than 1024 bytes", name);
}

/* store:list(options) -> iterator and what closes it. Nothing is read before the first step. */
static int store_list(lua_State *L) {
  static const char *const NAMES[] = {"deadline", "delimiter",   "limit", "page_size",
                                      "prefix",   "start_after", NULL};
  lua_settop(L, 2);
  const blob_store *store = blob_check_store(L, "store:list");
  opt_check(L, 2, "store:list", NAMES);
  lua_Integer limit = LUA_MAXINTEGER, page = PAGE_MOST;
  if (lua_istable(L, 2)) {
    opt_integer(L, 2, "store:list", "limit", 1, LUA_MAXINTEGER, &limit);
    opt_integer(L, 2, "store:list", "page_size", 1, PAGE_MOST, &page);
  }
  blob_filter filter;
  read_text(L, "prefix", &filter.prefix, &filter.prefix_length);
  read_text(L, "delimiter", &filter.delimiter, &filter.delimiter_length);
  read_text(L, "start_after", &filter.after, &filter.after_length);
  listing **box = lua_newuserdatauv(L, sizeof(listing *), 1);
  *box = NULL;
  luaL_setmetatable(L, LIST_TYPE);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  listing *self = calloc(1, sizeof *self);
  if (self == NULL) luaL_error(L, "not enough memory");
  *box = self;
  self->left = (uint64_t)limit;
  self->page = (size_t)page;
  self->lister = blob_lister_new(store, &filter);
  if (self->lister == NULL) luaL_error(L, "not enough memory");
  lua_pushvalue(L, -1);
  lua_pushcclosure(L, next_entry, 1); // stack: store, options, listing, iterator
  lua_insert(L, -2);
  lua_pushnil(L);
  lua_pushnil(L);
  lua_rotate(L, -3, -1); // stack: ..., iterator, nil, nil, listing
  return 4;
}

void blob_add_list_methods(lua_State *L) {
  static const luaL_Reg METHODS[] = {{"list", store_list}, {NULL, NULL}};
  static const luaL_Reg META[] = {
      {"__gc", listing_collect}, {"__close", listing_close}, {NULL, NULL}};
  luaL_newmetatable(L, LIST_TYPE);
  luaL_setfuncs(L, META, 0);
  lua_pop(L, 1);
  luaL_setfuncs(L, METHODS, 0);
}
