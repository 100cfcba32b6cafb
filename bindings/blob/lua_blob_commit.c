/* lua_blob_commit.c: sealed writers become objects, many at a time.
 *
 * Each fsync makes the disk flush its cache, which takes about a millisecond. So while one commit
 * is on the thread pool, the writers that are sealed meanwhile gather, and the next commit takes
 * them all: their bytes are synced, then they get their names, then these are synced; by fsync
 * where they are few, else by two syncfs for all (16 files: 0.4 of the time, on a file system that
 * others write to as well). */
#include <errno.h>
#include <stdlib.h>
#include "blob/lua_blob.h"

enum { BATCH_MOST = 256, FEW = 4 };

typedef struct blob_committer {
  uv_work_t request;
  blob_store *store; /* held */
  uv_loop_t *loop;
  blob_pending *batch;         /* on the pool */
  int count;                   /* of these */
  blob_pending *first, **last; /* waiting */
} blob_committer;

/* On a thread of the pool. */
static void commit_run(uv_work_t *request) {
  blob_committer *self = request->data;
  bool few = self->count <= FEW;
  int error = few ? 0 : blob_sync_all(self->store);
  for (blob_pending *each = self->batch; each != NULL; each = each->next) {
    blob_conditions conditions = blob_conditions_of(each->wish);
    *each->error = atomic_load(&each->work->cancelled) ? ECANCELED
                   : few                               ? blob_writer_sync(each->writer)
                                                       : error;
    if (*each->error == 0) {
      *each->error =
          blob_writer_place(each->writer, each->key->text, each->key->length, &conditions);
    }
    if (*each->error != 0) blob_writer_abort(each->writer);
  }
  error = few ? 0 : blob_sync_all(self->store);
  for (blob_pending *each = self->batch; each != NULL; each = each->next) {
    if (*each->error != 0) continue;
    *each->error = few ? blob_sync(self->store, each->key->text, each->key->length) : error;
  }
}

static void commit_done(uv_work_t *request, int status);

static void commit_start(blob_committer *self) {
  blob_pending **cut = &self->first;
  for (self->count = 0; *cut != NULL && self->count < BATCH_MOST; self->count++)
    cut = &(*cut)->next;
  self->batch = self->first;
  self->first = *cut;
  *cut = NULL;
  if (self->first == NULL) self->last = &self->first;
  (void)uv_queue_work(self->loop, &self->request, commit_run, commit_done);
}

static void commit_done(uv_work_t *request, int status) {
  (void)status;
  blob_committer *self = request->data;
  blob_pending *batch = self->batch;
  blob_store *store = self->store;
  if (self->first != NULL) {
    commit_start(self);
  } else {
    store->commits = NULL;
    free(self);
    self = NULL;
  }
  while (batch != NULL) { // finishing a job may free it
    blob_pending *next = batch->next;
    lua_work *work = batch->work;
    if (batch->ended != NULL) batch->ended(work);
    lua_work_finish(work);
    batch = next;
  }
  if (self == NULL) blob_store_release(store);
}

void blob_commit(blob_pending *pending) {
  blob_store *store = pending->store;
  blob_committer *self = store->commits;
  bool starts = self == NULL;
  if (starts) {
    self = calloc(1, sizeof *self);
    if (self == NULL) { // its job ends at once, as failed
      *pending->error = ENOMEM;
      blob_writer_abort(pending->writer);
      if (pending->ended != NULL) pending->ended(pending->work);
      return;
    }
    self->request.data = self;
    self->store = blob_store_hold(store);
    self->loop = pending->work->request.loop;
    self->last = &self->first;
    store->commits = self;
  }
  lua_work_hold(pending->work);
  pending->next = NULL;
  *self->last = pending;
  self->last = &pending->next;
  if (starts) commit_start(self);
}
