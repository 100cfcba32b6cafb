/* blob_internal.h: what the files of the directory store share. */
#ifndef NEBULA_BLOB_INTERNAL_H
#define NEBULA_BLOB_INTERNAL_H

#include "base/bytes.h"
#include "blob/blob_object.h"

enum { BLOB_FOOTER = 56 };

#define BLOB_KEY_SUFFIX ".key"
#define BLOB_MAGIC "NBLOB1\r\n"

void blob_footer_write(unsigned char footer[BLOB_FOOTER], const blob_info *info, const char *pairs,
                       size_t pairs_length);

/* Opens a file of the store for reading; BLOB_ABSENT where there is none. */
int blob_file_open(const char *path, int *fd);

/* Opens an object's file for reading; BLOB_ABSENT where there is none. */
int blob_object_open(const blob_store *store, const char *key, size_t length, int *fd);

/* Whether the conditions hold for an object, or for none (NULL). */
bool blob_conditions_hold(const blob_conditions *self, const blob_info *info);

#endif
