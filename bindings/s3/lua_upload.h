/* lua_upload.h: an upload as Lua holds it: what bucket:put and bucket:writer share.
 *
 * The userdata is closed like any other: unfinished, its upload is aborted, and the close waits
 * until the server has let go of the parts. Collected unclosed, it drops everything without a word.
 */
#ifndef NEBULA_S3_LUA_UPLOAD_H
#define NEBULA_S3_LUA_UPLOAD_H

#include "base/compress.h"
#include "s3/lua_call.h"
#include "s3/upload.h"

#define S3_WRITER_TYPE "nebula.s3.Writer"

typedef struct lua_s3_upload {
  s3_upload *upload;
  task_ticket ticket;
  http_headers headers, conditions;
  const char *call; /* "bucket:put", for messages */
  uint64_t told;    /* bytes, at the last progress */

  /* of a writer */
  compress_stream *compress;
  bytes pending; /* compressed, not yet taken */
  size_t drained;
  int argument; /* of the write under way */
  size_t offset;
  bool busy, finished;
} lua_s3_upload;

/* The options that start an upload; a method's list begins with these. */
#define S3_UPLOAD_OPTIONS                                                                          \
  S3_OBJECT_OPTIONS, S3_CONDITION_OPTIONS, "part_size", "concurrency", "deadline"

/* Pushes an upload of the key, which is at `key`, to the Bucket at `bucket`, with the options at
 * `options`. */
lua_s3_upload *lua_s3_upload_new(lua_State *L, const char *call, int bucket, int key, int options);

/* Waits for the next event, then runs `step`. Use as `return lua_s3_upload_wait(...)`. */
int lua_s3_upload_wait(lua_State *L, lua_s3_upload *self, lua_KContext context, lua_KFunction step);

/* Where the upload has failed and has ended: raises its failure. True: it has failed and not ended.
 */
bool lua_s3_upload_failing(lua_State *L, const lua_s3_upload *self);

/* Pushes what bucket:put returns, of an upload that is done; `index` is the upload's place. */
int lua_s3_upload_push(lua_State *L, const lua_s3_upload *self, int index);

/* Sets the writer's methods and its metatable; called once. */
void lua_s3_writer_open(lua_State *L);
int lua_s3_bucket_writer(lua_State *L);

#endif
