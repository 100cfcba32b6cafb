/* statement.c: the table of texts and the connection's order of use. */
#include "pg/statement.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pg_statements {
  pg_statement **buckets;
  size_t mask, count, capacity;
  uint32_t last_id;
  pg_statement *newest, *oldest;
};

static uint64_t hash_text(const char *text, size_t length) {
  uint64_t h = 0x9e3779b97f4a7c15u ^ length;
  while (length >= 8) {
    uint64_t word;
    memcpy(&word, text, 8);
    h = (h ^ word) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
    text += 8;
    length -= 8;
  }
  uint64_t rest = 0;
  if (length > 0) memcpy(&rest, text, length);
  h = (h ^ rest) * 0xc4ceb9fe1a85ec53u;
  return h ^ (h >> 29);
}

static size_t power_of_two(size_t least) {
  size_t n = 16;
  while (n < least)
    n *= 2;
  return n;
}

pg_statements *pg_statements_new(size_t capacity) {
  pg_statements *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  size_t n = power_of_two(capacity);
  self->buckets = calloc(n, sizeof *self->buckets);
  if (self->buckets == NULL) {
    free(self);
    return NULL;
  }
  self->mask = n - 1;
  self->capacity = capacity;
  return self;
}

const pg_statement *pg_statements_newest(const pg_statements *self) {
  return self->newest;
}

void pg_statement_retain(pg_statement *self) {
  self->refs++;
}

void pg_statement_release(pg_statement *self) {
  if (self == NULL || --self->refs > 0) return;
  free(self->text);
  free(self->params);
  free(self);
}

static void unlink_use(pg_statements *self, pg_statement *s) {
  if (s->newer != NULL)
    s->newer->older = s->older;
  else
    self->newest = s->older;
  if (s->older != NULL)
    s->older->newer = s->newer;
  else
    self->oldest = s->newer;
  s->newer = s->older = NULL;
}

static void link_newest(pg_statements *self, pg_statement *s) {
  s->older = self->newest;
  s->newer = NULL;
  if (self->newest != NULL)
    self->newest->newer = s;
  else
    self->oldest = s;
  self->newest = s;
}

static void drop(pg_statements *self, pg_statement *s) {
  pg_statement **link = &self->buckets[s->hash & self->mask];
  while (*link != s)
    link = &(*link)->chain;
  *link = s->chain;
  unlink_use(self, s);
  self->count--;
  pg_statement_release(s);
}

void pg_statements_free(pg_statements *self) {
  if (self == NULL) return;
  while (self->oldest != NULL)
    drop(self, self->oldest);
  free(self->buckets);
  free(self);
}

static pg_statement *make(pg_statements *self, const char *text, size_t length, uint64_t hash) {
  pg_statement *s = calloc(1, sizeof *s);
  if (s == NULL) return NULL;
  s->text = malloc(length + 1);
  if (s->text == NULL) {
    free(s);
    return NULL;
  }
  memcpy(s->text, text, length);
  s->text[length] = '\0';
  s->length = length;
  s->hash = hash;
  s->id = ++self->last_id;
  s->refs = 1;
  s->mean_us = -1;
  pg_scan_sql(s->text, length, &s->scan);
  return s;
}

pg_statement *pg_statements_intern(pg_statements *self, const char *text, size_t length) {
  uint64_t hash = hash_text(text, length);
  pg_statement *s = self->buckets[hash & self->mask];
  while (s != NULL &&
         (s->hash != hash || s->length != length || memcmp(s->text, text, length) != 0))
    s = s->chain;
  if (s == NULL) {
    s = make(self, text, length, hash);
    if (s == NULL) return NULL;
    if (self->count >= self->capacity) drop(self, self->oldest);
    s->chain = self->buckets[hash & self->mask];
    self->buckets[hash & self->mask] = s;
    self->count++;
    link_newest(self, s);
  } else if (s != self->newest) {
    unlink_use(self, s);
    link_newest(self, s);
  }
  s->refs++;
  return s;
}

bool pg_statement_describe(pg_statement *self, const PGresult *result) {
  int nparams = PQnparams(result);
  Oid *params = malloc(sizeof *params * ((size_t)nparams + 1));
  if (params == NULL) return false;
  for (int i = 0; i < nparams; i++)
    params[i] = PQparamtype(result, i);
  free(self->params);
  self->params = params;
  self->nparams = nparams;
  self->described = true;
  self->version++;
  return true;
}

void pg_statement_ran(pg_statement *self, double us, size_t rows) {
  bool first = self->mean_us < 0;
  self->calls++;
  self->mean_us = first ? us : self->mean_us * 0.8 + us * 0.2;
  self->mean_rows = first ? (double)rows : self->mean_rows * 0.8 + (double)rows * 0.2;
}

struct pg_prepared {
  pg_prepared_entry **buckets;
  size_t mask, count, capacity;
  uint32_t last_name;
  pg_prepared_entry *newest, *oldest;
};

pg_prepared *pg_prepared_new(size_t capacity) {
  pg_prepared *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  size_t n = power_of_two(capacity);
  self->buckets = calloc(n, sizeof *self->buckets);
  if (self->buckets == NULL) {
    free(self);
    return NULL;
  }
  self->mask = n - 1;
  self->capacity = capacity;
  return self;
}

static void entry_unlink(pg_prepared *self, pg_prepared_entry *e) {
  if (e->newer != NULL)
    e->newer->older = e->older;
  else
    self->newest = e->older;
  if (e->older != NULL)
    e->older->newer = e->newer;
  else
    self->oldest = e->newer;
}

static void entry_link(pg_prepared *self, pg_prepared_entry *e) {
  e->newer = NULL;
  e->older = self->newest;
  if (self->newest != NULL)
    self->newest->newer = e;
  else
    self->oldest = e;
  self->newest = e;
}

static void entry_drop(pg_prepared *self, pg_prepared_entry *e) {
  pg_prepared_entry **link = &self->buckets[e->statement->id & self->mask];
  while (*link != e)
    link = &(*link)->chain;
  *link = e->chain;
  entry_unlink(self, e);
  self->count--;
  pg_statement_release(e->statement);
  free(e);
}

void pg_prepared_clear(pg_prepared *self) {
  while (self->oldest != NULL)
    entry_drop(self, self->oldest);
}

void pg_prepared_free(pg_prepared *self) {
  if (self == NULL) return;
  pg_prepared_clear(self);
  free(self->buckets);
  free(self);
}

pg_prepared_entry *pg_prepared_find(pg_prepared *self, const pg_statement *statement) {
  pg_prepared_entry *e = self->buckets[statement->id & self->mask];
  while (e != NULL && e->statement != statement)
    e = e->chain;
  if (e != NULL && e != self->newest) {
    entry_unlink(self, e);
    entry_link(self, e);
  }
  return e;
}

pg_prepared_entry *pg_prepared_add(pg_prepared *self, pg_statement *statement, uint32_t *evicted) {
  *evicted = 0;
  pg_prepared_entry *e = calloc(1, sizeof *e);
  if (e == NULL) return NULL;
  if (self->count >= self->capacity) {
    *evicted = self->oldest->name;
    entry_drop(self, self->oldest);
  }
  e->statement = statement;
  e->name = ++self->last_name;
  pg_statement_retain(statement);
  e->chain = self->buckets[statement->id & self->mask];
  self->buckets[statement->id & self->mask] = e;
  entry_link(self, e);
  self->count++;
  return e;
}

void pg_prepared_learn(pg_prepared *self, const pg_statement *statement, uint32_t name,
                       bool binary) {
  pg_prepared_entry *e = pg_prepared_find(self, statement);
  if (e != NULL && e->name == name) e->binary = binary;
}

void pg_prepared_use_text(pg_prepared *self) {
  for (pg_prepared_entry *e = self->newest; e != NULL; e = e->older)
    e->binary = false;
}

void pg_prepared_forget(pg_prepared *self, const pg_statement *statement, uint32_t name) {
  pg_prepared_entry *e = pg_prepared_find(self, statement);
  if (e != NULL && e->name == name) entry_drop(self, e);
}

pg_name pg_statement_name(uint32_t name) {
  pg_name out = {""};
  if (name != 0) snprintf(out.text, sizeof out.text, "nebula_%u", name);
  return out;
}
