/* blob_list.c: a walk down the directories, each one's names sorted by what they stand for. */
#include "blob/blob_list.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "blob/blob_internal.h"
#include "blob/blob_path.h"

enum { NAMES_MOST = 65536 };

/* A name, and what it adds to the key. */
typedef struct item {
  blob_name kind;
  size_t length; /* of the addition */
  char *name;    /* behind the addition, terminated */
  char addition[];
} item;

typedef struct level {
  bytes path;   /* of the directory */
  bytes base;   /* the key so far */
  item **items; /* sorted */
  size_t count, next;
  bool more; /* names that follow the last of these were left out */
} level;

struct blob_lister {
  bytes root, prefix, delimiter, after;
  bytes skip; /* a common prefix that was given: what begins with it is done */
  level *levels;
  size_t depth, capacity;
  bool begun;
};

static int compare(const char *a, size_t a_length, const char *b, size_t b_length) {
  int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
  return order != 0 ? order : (a_length > b_length) - (a_length < b_length);
}

static int compare_items(const void *a, const void *b) {
  const item *left = *(item *const *)a, *right = *(item *const *)b;
  return compare(left->addition, left->length, right->addition, right->length);
}

static bool begins_with(const char *text, size_t length, const bytes *start) {
  return length >= start->length && memcmp(text, bytes_text(start), start->length) == 0;
}

/* Whether the key, or one that begins with it, may be asked for. */
static bool is_wanted(const blob_lister *self, blob_name kind, const char *key, size_t length) {
  bool below = kind != BLOB_NAME_OBJECT;
  if (!begins_with(key, length, &self->prefix) &&
      !(below && length < self->prefix.length && memcmp(key, self->prefix.data, length) == 0))
    return false;
  if (self->after.length == 0) return true;
  if (compare(key, length, self->after.data, self->after.length) > 0) return true;
  return below && length <= self->after.length && memcmp(key, self->after.data, length) == 0;
}

/* ---- one directory ---- */

static void level_clear(level *self) {
  for (size_t i = 0; i < self->count; i++)
    free(self->items[i]);
  free(self->items);
  self->items = NULL;
  self->count = self->next = 0;
}

static void level_free(level *self) {
  level_clear(self);
  bytes_free(&self->path);
  bytes_free(&self->base);
}

/* Sorts, and drops what is beyond the limit. */
static void level_cut(level *self) {
  if (self->count > 1) qsort(self->items, self->count, sizeof *self->items, compare_items);
  while (self->count > NAMES_MOST) {
    free(self->items[--self->count]);
    self->more = true;
  }
}

static item *item_new(blob_name kind, const bytes *addition, const char *name) {
  size_t size = strlen(name) + 1;
  item *self = malloc(sizeof *self + addition->length + size);
  if (self == NULL) return NULL;
  self->kind = kind;
  self->length = addition->length;
  self->name = self->addition + addition->length;
  memcpy(self->addition, bytes_text(addition), addition->length);
  memcpy(self->name, name, size);
  return self;
}

static int level_add(const blob_lister *lister, level *self, const char *name, const item *last,
                     size_t *capacity) {
  bytes key = {0};
  bytes_append(&key, self->base.data, self->base.length);
  blob_name kind = blob_name_read(name, &key);
  size_t base = self->base.length;
  int error = key.failed ? ENOMEM : 0;
  if (error == 0 && kind != BLOB_NAME_OTHER &&
      is_wanted(lister, kind, bytes_text(&key), key.length)) {
    bytes addition = {.data = key.data == NULL ? NULL : key.data + base,
                      .length = key.length - base};
    bool follows = last == NULL || compare(bytes_text(&addition), addition.length, last->addition,
                                           last->length) > 0;
    if (follows && self->count == *capacity) {
      size_t larger = *capacity == 0 ? 64 : *capacity * 2;
      item **items = realloc(self->items, larger * sizeof *items);
      if (items != NULL) {
        self->items = items;
        *capacity = larger;
      }
      error = items == NULL ? ENOMEM : 0;
    }
    item *added = follows && error == 0 ? item_new(kind, &addition, name) : NULL;
    if (added != NULL) self->items[self->count++] = added;
    if (follows && added == NULL) error = ENOMEM;
  }
  bytes_free(&key);
  return error;
}

/* Reads the directory's names that follow `last`; what is gone has none. */
static int level_read(const blob_lister *lister, level *self, const item *last) {
  size_t capacity = 0;
  self->more = false;
  DIR *directory = opendir(bytes_text(&self->path));
  if (directory == NULL) return errno == ENOENT || errno == ENOTDIR ? 0 : errno;
  int error = 0;
  while (error == 0) {
    errno = 0;
    struct dirent *entry = readdir(directory);
    if (entry == NULL) {
      error = errno;
      break;
    }
    if (entry->d_name[0] == '.') continue; // no name of ours begins so
    error = level_add(lister, self, entry->d_name, last, &capacity);
    if (self->count >= 2 * NAMES_MOST) level_cut(self);
  }
  (void)closedir(directory);
  level_cut(self);
  return error;
}

/* Replaces the names, all used, by those that follow. */
static int level_refill(const blob_lister *lister, level *self) {
  item *last = self->items[self->count - 1];
  self->count--;
  level_clear(self);
  int error = level_read(lister, self, last);
  free(last);
  return error;
}

/* ---- the walk ---- */

static int push_level(blob_lister *self, const level *above, const item *via) {
  if (self->depth == self->capacity) {
    size_t larger = self->capacity == 0 ? 8 : self->capacity * 2;
    level *levels = realloc(self->levels, larger * sizeof *levels);
    if (levels == NULL) return ENOMEM;
    if (above != NULL) above = levels + (above - self->levels);
    self->levels = levels;
    self->capacity = larger;
  }
  level added = {0};
  if (above == NULL) {
    bytes_append(&added.path, self->root.data, self->root.length);
  } else {
    bytes_append(&added.path, above->path.data, above->path.length);
    bytes_append_char(&added.path, '/');
    bytes_append_text(&added.path, via->name);
    bytes_append(&added.base, bytes_text(&above->base), above->base.length);
    bytes_append(&added.base, via->addition, via->length);
  }
  int error = added.path.failed || added.base.failed ? ENOMEM : level_read(self, &added, NULL);
  if (error != 0) {
    level_free(&added);
    return error;
  }
  self->levels[self->depth++] = added;
  return 0;
}

static void pop_level(blob_lister *self) {
  level_free(&self->levels[--self->depth]);
}

/* The end of the common prefix of the key, or 0. */
static size_t find_common(const blob_lister *self, const bytes *key) {
  if (self->delimiter.length == 0) return 0;
  const char *from = key->data + self->prefix.length;
  const char *found =
      memmem(from, key->length - self->prefix.length, self->delimiter.data, self->delimiter.length);
  return found == NULL ? 0 : (size_t)(found - key->data) + self->delimiter.length;
}

/* Makes an entry of an object; *made is false where it has vanished. Takes the key's memory. */
static int make_entry(blob_lister *self, const level *top, const item *found, bytes *key,
                      blob_entry *out, bool *made) {
  *out = (blob_entry){0};
  *made = true;
  size_t common = find_common(self, key);
  if (common > 0) {
    key->length = common;
    bytes_clear(&self->skip);
    if (!bytes_append(&self->skip, key->data, common)) return ENOMEM;
    out->is_prefix = true;
  } else {
    bytes path = {0};
    bytes_format(&path, "%s/%s", bytes_text(&top->path), found->name);
    int error = path.failed ? ENOMEM : 0, fd = -1;
    if (error == 0) error = blob_file_open(path.data, &fd);
    bytes_free(&path);
    if (error == 0) {
      error = blob_info_read(fd, &out->info);
      (void)close(fd);
    }
    *made = error != BLOB_ABSENT;
    out->is_damaged = error == BLOB_DAMAGED;
    if (error != 0 && error != BLOB_DAMAGED) return error == BLOB_ABSENT ? 0 : error;
  }
  out->length = key->length;
  out->text = bytes_detach(key);
  return 0;
}

/* One step of the walk; *made is true where it gave an entry. */
static int step(blob_lister *self, blob_entry *out, bool *made) {
  level *top = &self->levels[self->depth - 1];
  *made = false;
  if (top->next == top->count) {
    if (top->more && top->count > 0) return level_refill(self, top);
    pop_level(self);
    return 0;
  }
  const item *found = top->items[top->next++];
  bytes key = {0};
  bytes_append(&key, bytes_text(&top->base), top->base.length);
  bytes_append(&key, found->addition, found->length);
  int error = key.failed ? ENOMEM : 0;
  bool done = self->skip.length > 0 && begins_with(bytes_text(&key), key.length, &self->skip);
  if (error == 0 && !done) {
    error = found->kind == BLOB_NAME_OBJECT ? make_entry(self, top, found, &key, out, made)
                                            : push_level(self, top, found);
  }
  bytes_free(&key);
  return error;
}

int blob_lister_next(blob_lister *self, blob_entry *entries, size_t most, size_t *count) {
  *count = 0;
  int error = self->begun ? 0 : push_level(self, NULL, NULL);
  self->begun = true;
  while (error == 0 && self->depth > 0 && *count < most) {
    bool made;
    error = step(self, &entries[*count], &made);
    if (error == 0 && made) ++*count;
  }
  return error;
}

void blob_entry_free(blob_entry *self) {
  free(self->text);
  blob_info_free(&self->info);
  *self = (blob_entry){0};
}

blob_lister *blob_lister_new(const blob_store *store, const blob_filter *filter) {
  blob_lister *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  bool done = bytes_append_text(&self->root, store->root) &&
              bytes_append(&self->prefix, filter->prefix, filter->prefix_length) &&
              bytes_append(&self->delimiter, filter->delimiter, filter->delimiter_length) &&
              bytes_append(&self->after, filter->after, filter->after_length);
  if (done) return self;
  blob_lister_free(self);
  return NULL;
}

void blob_lister_free(blob_lister *self) {
  if (self == NULL) return;
  while (self->depth > 0)
    pop_level(self);
  free(self->levels);
  bytes *const texts[] = {&self->root, &self->prefix, &self->delimiter, &self->after, &self->skip};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
    bytes_free(texts[i]);
  free(self);
}
