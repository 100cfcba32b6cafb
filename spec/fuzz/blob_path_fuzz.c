/* blob_path_fuzz.c: every good key has a path that stays below the store's directory and from which
 * the key can be read again, name by name. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "blob/blob_path.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *key = (const char *)data;
  if (blob_key_problem(key, size) != NULL) return 0;
  bytes path = {0}, again = {0};
  blob_path_append(&path, key, size);
  blob_name last = BLOB_NAME_OTHER;
  for (char *rest = path.data, *name; (name = strsep(&rest, "/")) != NULL;) {
    if (name == path.data) continue; // before the first slash
    if (*name == '\0' || *name == '.' || strlen(name) > 255) abort();
    last = blob_name_read(name, &again);
    if ((last == BLOB_NAME_OBJECT) != (rest == NULL)) abort();
  }
  if (again.length != size || memcmp(again.data, key, size) != 0) abort();
  bytes_free(&path);
  bytes_free(&again);
  return 0;
}
