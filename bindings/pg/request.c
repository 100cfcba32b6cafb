/* request.c: the life of a request. */
#include "pg/request.h"
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "pg/copy.h"
#include "pg/pool.h"

struct pg_block {
  struct pg_block *next;
  char bytes[];
};

pg_request *pg_request_new(pg_pool *pool, pg_request_kind kind, pg_statement *statement) {
  pg_request *self = pg_pool_request_take(pool);
  if (self == NULL) {
    pg_statement_release(statement);
    return NULL;
  }
  memset(self, 0, offsetof(pg_request, inline_values));
  self->pool = pool;
  self->kind = kind;
  self->refs = 1;
  self->statement = statement;
  self->parse_step = -1;
  return self;
}

bool pg_request_parameters(pg_request *self, int count) {
  self->nparams = count;
  if (count <= PG_REQUEST_INLINE) {
    self->values = self->inline_values;
    self->lengths = self->inline_lengths;
    self->formats = self->inline_formats;
  } else {
    size_t n = (size_t)count;
    char *memory = pg_request_bytes(self, n * (sizeof(char *) + 2 * sizeof(int)));
    if (memory == NULL) return false;
    self->values = (const char **)(void *)memory;
    self->lengths = (int *)(void *)(memory + n * sizeof(char *));
    self->formats = self->lengths + n;
  }
  for (int i = 0; i < count; i++) {
    self->values[i] = NULL;
    self->lengths[i] = self->formats[i] = 0;
  }
  return true;
}

char *pg_request_bytes(pg_request *self, size_t length) {
  struct pg_block *block = malloc(sizeof *block + length);
  if (block == NULL) return NULL;
  block->next = self->blocks;
  self->blocks = block;
  return block->bytes;
}

static size_t value_length(const pg_request *self, int i) {
  return self->formats[i] == 1 ? (size_t)self->lengths[i] : strlen(self->values[i]) + 1;
}

size_t pg_request_measure(const pg_request *self) {
  size_t size = self->statement->length;
  for (int i = 0; i < self->nparams; i++)
    if (self->values[i] != NULL) size += value_length(self, i);
  return size;
}

bool pg_request_keep(pg_request *self) {
  for (int i = 0; i < self->nparams; i++) {
    if (self->values[i] == NULL) continue;
    size_t length = value_length(self, i);
    char *copy = pg_request_bytes(self, length);
    if (copy == NULL) return false;
    self->values[i] = memcpy(copy, self->values[i], length);
  }
  return true;
}

PGresult *pg_request_next_row(pg_request *self) {
  if (self->rows_count == 0) return NULL;
  PGresult *row = self->rows[self->rows_first];
  self->rows_first = (self->rows_first + 1) % PG_REQUEST_ROWS;
  self->rows_count--;
  return row;
}

const PGresult *pg_request_peek_row(const pg_request *self) {
  return self->rows_count > 0 ? self->rows[self->rows_first] : NULL;
}

bool pg_request_add_row(pg_request *self, PGresult *row) {
  if (self->rows == NULL) self->rows = calloc(PG_REQUEST_ROWS, sizeof *self->rows);
  if (self->rows == NULL || self->rows_count == PG_REQUEST_ROWS) return false;
  self->rows[(self->rows_first + self->rows_count++) % PG_REQUEST_ROWS] = row;
  self->rows_seen++;
  return true;
}

void pg_request_release(pg_request *self) {
  if (--self->refs > 0) return;
  while (self->blocks != NULL) {
    struct pg_block *block = self->blocks;
    self->blocks = block->next;
    free(block);
  }
  PGresult *row;
  while ((row = pg_request_next_row(self)) != NULL)
    PQclear(row);
  free(self->rows);
  pg_copy_free(self->copy);
  PQclear(self->result);
  pg_statement_release(self->statement);
  pg_pool_request_give(self->pool, self);
}

void pg_request_finish(pg_request *self, pg_outcome outcome, const char *message) {
  if (!self->finished) {
    self->finished = true;
    self->outcome = outcome;
    if (message != NULL) {
      size_t length = strlen(message) + 1;
      char *copy = pg_request_bytes(self, length);
      if (copy != NULL) self->message = memcpy(copy, message, length);
    }
    loop_timer_stop(pg_pool_loop(self->pool), self->timer);
    self->timer = NULL;
    pg_pool_observed(self->pool, self);
    if (!self->abandoned) self->done(self);
  }
}

void pg_request_abandon(pg_request *self) {
  self->abandoned = true;
  if (!self->finished) {
    loop_timer_stop(pg_pool_loop(self->pool), self->timer);
    self->timer = NULL;
    pg_pool_abandoned(self->pool, self);
  } else if (self->kind == PG_REQUEST_ACQUIRE && self->conn != NULL) {
    pg_pool_give_back(self->pool, self->conn);
  }
  pg_request_release(self);
}

void pg_queue_push(pg_queue *self, pg_request *request) {
  request->queue = self;
  request->next = NULL;
  request->prev = self->last;
  if (self->last != NULL)
    self->last->next = request;
  else
    self->first = request;
  self->last = request;
  self->count++;
}

void pg_queue_push_front(pg_queue *self, pg_request *request) {
  request->queue = self;
  request->prev = NULL;
  request->next = self->first;
  if (self->first != NULL)
    self->first->prev = request;
  else
    self->last = request;
  self->first = request;
  self->count++;
}

void pg_queue_remove(pg_request *request) {
  pg_queue *self = request->queue;
  if (request->prev != NULL)
    request->prev->next = request->next;
  else
    self->first = request->next;
  if (request->next != NULL)
    request->next->prev = request->prev;
  else
    self->last = request->prev;
  self->count--;
  request->queue = NULL;
  request->next = request->prev = NULL;
}
