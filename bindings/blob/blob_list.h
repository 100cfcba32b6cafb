/* blob_list.h: the keys of a directory store in the order of their bytes, a page at a time.
 *
 * Memory is bounded by the page and by 65,536 names a level: a larger directory is read again for
 * the names that follow. What is stored or deleted meanwhile may be seen or not; what stays is
 * given once. Blocking: it belongs on a thread of the pool, one at a time. */
#ifndef NEBULA_BLOB_LIST_H
#define NEBULA_BLOB_LIST_H

#include "blob/blob_object.h"

typedef struct blob_lister blob_lister;

typedef struct blob_entry {
  char *text; /* the key, or the common prefix; owned */
  size_t length;
  bool is_prefix, is_damaged; /* of a damaged object only the key is known */
  blob_info info;
} blob_entry;

typedef struct blob_filter {
  const char *prefix, *delimiter, *after; /* "" where there is none */
  size_t prefix_length, delimiter_length, after_length;
} blob_filter;

/* Copies the filter. NULL on a lack of memory. */
blob_lister *blob_lister_new(const blob_store *store, const blob_filter *filter);

/* Writes up to `most` entries; fewer are the end. 0 or an errno; the entries are the caller's
 * either way. */
int blob_lister_next(blob_lister *self, blob_entry *entries, size_t most, size_t *count);

void blob_entry_free(blob_entry *self);

void blob_lister_free(blob_lister *self); /* safe with NULL */

#endif
