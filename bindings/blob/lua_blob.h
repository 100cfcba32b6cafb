/* lua_blob.h: what the glue of a directory store's methods shares: the store, the options of a
 * call, jobs for the thread pool, and tables of what came back.
 *
 * Every method has the store at index 1. Its options stand where the method says. */
#ifndef NEBULA_LUA_BLOB_H
#define NEBULA_LUA_BLOB_H

#include <lua.h>
#include "base/bytes.h"
#include "base/lua_work.h"
#include "blob/blob_object.h"
#include "blob/blob_path.h"

typedef struct blob_key {
  size_t length;
  char text[BLOB_KEY_MOST];
} blob_key;

/* What the options of a call say about the object; all of it owned. */
typedef struct blob_wish {
  char *if_match, *if_none_match;
  bytes pairs, tags; /* the metadata as a file has them */
  bool has_pairs;    /* some were given, none maybe */
} blob_wish;

/* A job of one whole operation. `run` of its class does it and sets error. */
typedef struct blob_job {
  lua_work base;
  blob_store *store; /* held */
  blob_key key, other;
  char id[BLOB_ID_MOST];
  blob_wish wish;
  const char *data; /* Lua's memory, anchored */
  size_t length;
  char *file;   /* owned */
  char *result; /* owned */
  size_t result_length;
  int64_t first, last; /* the range, where there is one */
  bool ranged;
  uint64_t most;
  bytes keys; /* of delete_many: each as its length in two bytes, then its bytes */
  blob_info info;
  int error;
  const char *culprit; /* the file that the error is about, or NULL for the object */
} blob_job;

/* The store at index 1. Raises `validation`. */
blob_store *blob_check_store(lua_State *L, const char *call);

static inline blob_store *blob_store_hold(blob_store *self) {
  self->holders++;
  return self;
}

void blob_store_release(blob_store *self); /* safe with NULL */

/* Copies the key at index, checked. Raises `validation`. */
void blob_check_key(lua_State *L, int index, const char *call, blob_key *out);

/* Reads the table of tags at index. Raises. */
void blob_read_tags(lua_State *L, int index, const char *call, blob_wish *out);

/* Pushes the function progress of the options at index, or nil. Raises. */
bool blob_push_progress(lua_State *L, int index, const char *call);

/* With what a call returns on top of the stack: calls the option progress, if there is one, with
 * the size, and returns that. */
int blob_return_told(lua_State *L, int index, const char *call, uint64_t size);

/* Reads the conditions and the metadata among the options at index, if any. Raises. */
void blob_read_conditions(lua_State *L, int index, const char *call, blob_wish *out);
void blob_read_put_conditions(lua_State *L, int index, const char *call, blob_wish *out);
void blob_read_pairs(lua_State *L, int index, const char *call, blob_wish *out);

void blob_wish_free(blob_wish *self);

static inline blob_conditions blob_conditions_of(const blob_wish *wish) {
  return (blob_conditions){.if_match = wish->if_match, .if_none_match = wish->if_none_match};
}

/* Pushes a new job of the class on the store, with the key at index 2 where `keyed`. `size` is that
 * of a struct that begins with a blob_job. */
blob_job *blob_job_new(lua_State *L, const lua_work_class *class, size_t size, bool keyed);

/* Keeps the first `count` values of the stack alive with the job at the top, and waits. */
int blob_job_wait(lua_State *L, int count, lua_KFunction done);

/* For lua_work_class: frees what a job holds. */
void blob_job_destroy(lua_work *work);

/* A sealed writer that waits to be stored: part of a job. */
typedef struct blob_pending {
  struct blob_pending *next;
  lua_work *work;
  void (*ended)(lua_work *work); /* when it is stored or not; may be NULL */
  blob_store *store;
  blob_writer *writer;
  const blob_key *key;
  const blob_wish *wish;
  int *error;
} blob_pending;

/* Holds the pending's job until its object is stored, or *error says why not and the writer is
 * aborted. Called by `ended`. What waits at one time is synced together: one commit of the file
 * system's journal serves them all. */
void blob_commit(blob_pending *pending);

/* Raises the failure of a call on a key; `path` is the file that it is about, or NULL. */
_Noreturn void blob_raise(lua_State *L, const char *call, const blob_key *key, const char *path,
                          int error);

/* Pushes {etag=, url=, size=, last_modified=}, and with `whole` {key=, metadata=, ...} as well. */
void blob_push_stored(lua_State *L, const blob_key *key, const blob_info *info);
void blob_push_info(lua_State *L, const char *key, size_t length, const blob_info *info);

/* Set their methods in the table at the top. */
void blob_add_put_methods(lua_State *L);
void blob_add_read_methods(lua_State *L);
void blob_add_object_methods(lua_State *L);
void blob_add_list_methods(lua_State *L);
void blob_add_tag_methods(lua_State *L);
void blob_add_store_methods(lua_State *L);

#endif
