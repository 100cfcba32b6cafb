/* blob_object.h: objects of a directory store: written whole or not at all, verified when read.
 *
 * An object is one file: its bytes, then its metadata, then a footer of 56 bytes:
 *
 *   8   "NBLOB1\r\n"
 *   8   the number of the object's bytes, little-endian as all here
 *   4   the number of the metadata's bytes
 *   4   CRC-32C of the metadata and of the footer's other fields
 *   32  SHA-256 of the object's bytes; in hexadecimal, it is the ETag
 *
 * The metadata are pairs of texts, each terminated by a NUL: name, value, name, value; a user's
 * have a '+' before their name, tags a '='. A new object is written into %tmp, synced, and renamed
 * to its place, so that a reader sees the old or the new one; who replaces or removes holds the
 * lock of its key (a flock on one of 64 files in %lock), so that conditions hold between processes.
 *
 * All of it blocks and belongs on a thread of the pool; a writer or reader on one at a time. */
#ifndef NEBULA_BLOB_OBJECT_H
#define NEBULA_BLOB_OBJECT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <openssl/evp.h>
#include "base/bytes.h"

enum { BLOB_DIGEST = 32 };

/* What functions return: 0, an errno, or one of these. */
enum {
  BLOB_ABSENT = -1,
  BLOB_CONFLICT = -2,  /* a condition does not hold */
  BLOB_UNCHANGED = -8, /* the object is still the one of if_none_match */
  BLOB_DAMAGED = -3,   /* the file is not what was written */
  BLOB_LARGE = -4,     /* more bytes than allowed */
  BLOB_OUTSIDE = -5,   /* a range that lies behind the end */
  BLOB_NO_STREAM = -6, /* not compressed as was said, or cut short */
  BLOB_ABORTED = -7,   /* somebody has removed what a writer had written */
};

/* Held by all that may still be at work when its handle is gone; counted on the loop's thread. */
typedef struct blob_store {
  unsigned holders;
  char *root;                     /* absolute, without a slash at its end */
  struct blob_committer *commits; /* those that run or wait; NULL where there are none */
} blob_store;

typedef struct blob_info {
  uint64_t size;
  unsigned char digest[BLOB_DIGEST];
  int64_t modified; /* microseconds since 1970 */
  char *pairs;      /* owned; NULL where there are none */
  size_t pairs_length;
} blob_info;

/* if_match and if_none_match: an ETag, "*" for any object, or NULL. modified: the time of the
 * object that is there, or 0. */
typedef struct blob_conditions {
  const char *if_match, *if_none_match;
  int64_t modified;
} blob_conditions;

void blob_info_free(blob_info *self);

/* Appends an object's pairs: its tags, or all others. */
void blob_pairs_append(bytes *out, const blob_info *info, bool tags);

/* Makes the store's directories, and removes what writers left in %tmp more than a day ago. */
int blob_store_prepare(const blob_store *self);

/* ---- writing ---- */

typedef struct blob_writer {
  const blob_store *store;
  int fd; /* -1 where it is not open */
  char *temporary;
  EVP_MD_CTX *digest;
  uint64_t size;
  bool listed;
} blob_writer;

/* Zeroed memory with fd -1 is a closed writer; whatever happens, end with commit or abort. */
int blob_writer_open(blob_writer *self, const blob_store *store);

/* Lets blob_uploads know an open writer, which may stay open for long, and its key; where the file
 * system has no links, it does not. */
void blob_writer_list(blob_writer *self, const char *key, size_t length);
int blob_writer_write(blob_writer *self, const void *data, size_t length);

/* Writes all of a file. */
int blob_writer_copy(blob_writer *self, const char *path, const atomic_bool *cancelled);

/* The steps of a commit, each only after the one before; where one fails, abort. `seal` ends the
 * file
 * (*out gets size, digest and time), `sync` waits until it is on the disk, `place` gives it its
 * name, if the conditions hold, and closes the writer, `blob_sync` makes the name last. */
int blob_writer_seal(blob_writer *self, const char *pairs, size_t pairs_length, blob_info *out);
int blob_writer_sync(blob_writer *self);
int blob_writer_place(blob_writer *self, const char *key, size_t length,
                      const blob_conditions *conditions);
int blob_sync(const blob_store *store, const char *key, size_t length);

/* Syncs the store's whole file system, for many writers or names at a time. */
int blob_sync_all(const blob_store *store);

/* All of these at once; aborts where one fails. */
int blob_writer_commit(blob_writer *self, const char *key, size_t length,
                       const blob_conditions *conditions, const char *pairs, size_t pairs_length,
                       blob_info *out);

/* Leaves nothing behind. Does nothing where it is closed. */
void blob_writer_abort(blob_writer *self);

/* ---- reading ---- */

typedef struct blob_reader {
  int fd; /* -1 where it is not open */
  blob_info info;
  uint64_t at, end;   /* of the object's bytes */
  EVP_MD_CTX *digest; /* NULL where only a part is read */
} blob_reader;

/* Opens an object whose conditions hold; BLOB_ABSENT, BLOB_CONFLICT, BLOB_UNCHANGED. */
int blob_reader_open(blob_reader *self, const blob_store *store, const char *key, size_t length,
                     const blob_conditions *conditions);

/* Reads only the bytes from `first` up to `end`; their checksum cannot be verified. */
void blob_reader_limit(blob_reader *self, uint64_t first, uint64_t end);

/* Reads on; *got is 0 at the end. BLOB_DAMAGED at the end of bytes that are not those written. */
int blob_reader_read(blob_reader *self, void *data, size_t length, size_t *got);

void blob_reader_close(blob_reader *self);

/* Only what is known about an object. The caller frees *out. */
int blob_head(const blob_store *store, const char *key, size_t length, blob_info *out);

/* The same for an open file: what the listing uses. */
int blob_info_read(int fd, blob_info *out);

/* Replaces an object's tags by these pairs, and nothing else of it. BLOB_ABSENT. */
int blob_tag(const blob_store *store, const char *key, size_t length, const char *tags,
             size_t tags_length);

/* ---- unfinished writers ---- */

enum { BLOB_ID_MOST = 48 };

typedef struct blob_upload {
  char *key; /* owned; they hold no NUL */
  char id[BLOB_ID_MOST];
  int64_t began; /* microseconds since 1970 */
} blob_upload;

/* The writers that are listed, by key; whoever has begun them, also processes that were killed. The
 * caller frees each key and the list. */
int blob_uploads(const blob_store *store, blob_upload **list, size_t *count);

/* Removes what a writer has written; if it still writes, it fails as BLOB_ABORTED. */
int blob_upload_abort(const blob_store *store, const char *id);

/* ---- the store itself ---- */

bool blob_store_exists(const blob_store *self);

/* Removes the store's directories. ENOTEMPTY where an object or a writer's file is in it. */
int blob_store_remove(const blob_store *self);

/* Removes an object; BLOB_ABSENT where there is none. Not synced: after a power failure it may be
 * back, which harms nobody who looks for what nothing refers to. */
int blob_delete(const blob_store *store, const char *key, size_t length,
                const blob_conditions *conditions);

#endif
