/* blob_path.h: where a key's object lies below the directory of its store.
 *
 * A key is 1 to 1024 bytes without NUL. Its components, parted by '/', are directories; the last
 * one names the file. In a name, control characters, '%' and a leading '.' stand as %XX (upper
 * case), so that no key leads outside or hides; the rest, UTF-8 too, stands for itself. A '%' that
 * no two digits follow cannot come from a key and tells names of other kinds apart:
 *
 *   report.pdf%    the object whose last component is "report.pdf"
 *   archive        a directory for keys below "archive/"
 *   %-             an empty component: a//b is a/%-/b%, a/ is a/%-%
 *   ...%+          a directory for components of 80 bytes or more, named by the first 80: what is
 * in it goes on with the rest (a file's name has room for 255 bytes) %lock %tmp     the store's own
 *
 * Sorted by what they stand for, a directory's with its '/', names come in the order of the keys'
 * bytes: no two of them share a prefix that a third could fall between. Any thread. */
#ifndef NEBULA_BLOB_PATH_H
#define NEBULA_BLOB_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include "base/bytes.h"

enum { BLOB_KEY_MOST = 1024, BLOB_NAME_CUT = 80 };

typedef enum blob_name {
  BLOB_NAME_OTHER,
  BLOB_NAME_OBJECT,
  BLOB_NAME_DIRECTORY,
  BLOB_NAME_CUTOFF
} blob_name;

/* What is wrong with a key, a phrase for a person, or NULL. */
const char *blob_key_problem(const char *key, size_t length);

/* Appends "/archive/report.pdf%" for a good key; `failed` of the bytes tells of a lack of memory.
 */
void blob_path_append(bytes *out, const char *key, size_t length);

/* Appends what a name in a directory adds to the key, a directory's with its '/'. */
blob_name blob_name_read(const char *name, bytes *out);

/* Appends the key as a URL has it (RFC 3986), its slashes as they are. */
void blob_url_append(bytes *out, const char *key, size_t length);

#endif
