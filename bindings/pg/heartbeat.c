/* heartbeat.c: see heartbeat.h. The lock guards everything that both threads see; the thread lets
 * go of it while it talks to the server. */
#include "pg/heartbeat.h"

#include <pthread.h>
#include <signal.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <libpq-fe.h>
#include <uv.h>

enum { RETRY_DIVISOR = 4, CONNECT_SECONDS = 5, ROUND_SECONDS_LEAST = 5 };

typedef struct beat_entry {
  char *values[PG_HEARTBEAT_COLUMNS]; /* the first is the key */
  uint64_t until_ns;
  uint64_t revision; /* tells an entry from one that took its key during a round */
  uint64_t seen;     /* the last round that the server confirmed it in */
  struct beat_entry *next, *previous;
} entry;

typedef struct lost_key {
  char *key;
  struct lost_key *next;
} lost_key;

struct pg_heartbeat {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool stopping;
  unsigned owners; /* the caller and the thread */
  pg_config *config;
  char *sql;
  int columns;
  double interval;
  void *by_key; /* a tree of entries, for tsearch */
  entry *first;
  lost_key *lost;
  uint64_t revision, round;
  pg_heartbeat_stats stats;
  PGconn *pg; /* the thread's alone */
};

static int compare(const void *a, const void *b) {
  return strcmp(((const entry *)a)->values[0], ((const entry *)b)->values[0]);
}

static void entry_free(entry *self) {
  for (int i = 0; i < PG_HEARTBEAT_COLUMNS; i++)
    free(self->values[i]);
  free(self);
}

static entry *entry_find(pg_heartbeat *self, const char *key) {
  const entry probe = {.values = {(char *)key}};
  entry *const *found = tfind(&probe, &self->by_key, compare);
  return found != NULL ? *found : NULL;
}

static void entry_unlink(pg_heartbeat *self, entry *old) {
  tdelete(old, &self->by_key, compare);
  if (old->previous != NULL)
    old->previous->next = old->next;
  else
    self->first = old->next;
  if (old->next != NULL) old->next->previous = old->previous;
  self->stats.entries--;
}

static void heartbeat_free(pg_heartbeat *self) {
  while (self->first != NULL) {
    entry *old = self->first;
    entry_unlink(self, old);
    entry_free(old);
  }
  while (self->lost != NULL) {
    lost_key *old = self->lost;
    self->lost = old->next;
    free(old->key);
    free(old);
  }
  pg_config_free(self->config);
  pthread_cond_destroy(&self->changed);
  pthread_mutex_destroy(&self->lock);
  free(self->sql);
  free(self);
}

/* ---- the owner's side ---- */

bool pg_heartbeat_set(pg_heartbeat *self, const char *const values[], uint64_t until_ns) {
  entry *made = calloc(1, sizeof *made);
  if (made == NULL) return false;
  made->until_ns = until_ns;
  for (int i = 0; i < self->columns; i++) {
    if (values[i] == NULL) continue;
    made->values[i] = strdup(values[i]);
    if (made->values[i] == NULL) {
      entry_free(made);
      return false;
    }
  }
  pthread_mutex_lock(&self->lock);
  entry *old = entry_find(self, made->values[0]);
  if (old != NULL) entry_unlink(self, old);
  made->revision = ++self->revision;
  bool kept = tsearch(made, &self->by_key, compare) != NULL;
  if (kept) {
    made->next = self->first;
    if (self->first != NULL) self->first->previous = made;
    self->first = made;
    self->stats.entries++;
  }
  pthread_mutex_unlock(&self->lock);
  if (old != NULL) entry_free(old);
  if (!kept) entry_free(made);
  return kept;
}

void pg_heartbeat_remove(pg_heartbeat *self, const char *key) {
  pthread_mutex_lock(&self->lock);
  entry *old = entry_find(self, key);
  if (old != NULL) entry_unlink(self, old);
  pthread_mutex_unlock(&self->lock);
  if (old != NULL) entry_free(old);
}

char *pg_heartbeat_next_lost(pg_heartbeat *self) {
  pthread_mutex_lock(&self->lock);
  lost_key *first = self->lost;
  if (first != NULL) self->lost = first->next;
  pthread_mutex_unlock(&self->lock);
  char *key = first != NULL ? first->key : NULL;
  free(first);
  return key;
}

void pg_heartbeat_stats_get(pg_heartbeat *self, pg_heartbeat_stats *out) {
  pthread_mutex_lock(&self->lock);
  *out = self->stats;
  pthread_mutex_unlock(&self->lock);
}

/* ---- the thread's side ---- */

typedef struct text {
  char *bytes;
  size_t length, room;
  bool failed;
} text;

static void text_add(text *self, const char *bytes, size_t length) {
  if (self->failed) return;
  if (self->length + length + 1 > self->room) {
    size_t room = (self->length + length + 1) * 2;
    char *grown = realloc(self->bytes, room);
    if (grown == NULL) {
      self->failed = true;
      return;
    }
    self->bytes = grown;
    self->room = room;
  }
  memcpy(self->bytes + self->length, bytes, length);
  self->length += length;
  self->bytes[self->length] = '\0';
}

/* An element of an array literal. */
static void text_add_element(text *self, const char *value) {
  if (self->length > 1) text_add(self, ",", 1);
  if (value == NULL) {
    text_add(self, "NULL", 4);
    return;
  }
  text_add(self, "\"", 1);
  for (const char *p = value; *p != '\0'; p++) {
    if (*p == '"' || *p == '\\') text_add(self, "\\", 1);
    text_add(self, p, 1);
  }
  text_add(self, "\"", 1);
}

/* Takes out what is past its time and writes the rest into one array a column. Under the lock.
 * The revision up to which it looked tells what came later. */
static bool collect(pg_heartbeat *self, text columns[]) {
  uint64_t now = uv_hrtime();
  for (int i = 0; i < self->columns; i++)
    text_add(&columns[i], "{", 1);
  for (entry *at = self->first, *next; at != NULL; at = next) {
    next = at->next;
    if (at->until_ns != 0 && at->until_ns <= now) {
      entry_unlink(self, at);
      entry_free(at);
      continue;
    }
    for (int i = 0; i < self->columns; i++)
      text_add_element(&columns[i], at->values[i]);
  }
  bool ok = true;
  for (int i = 0; i < self->columns; i++) {
    text_add(&columns[i], "}", 1);
    ok = ok && !columns[i].failed;
  }
  return ok;
}

/* Under the lock: what was asked for and did not come back is lost. */
static void judge(pg_heartbeat *self, const PGresult *result, uint64_t asked) {
  self->round++;
  for (int row = 0; row < PQntuples(result); row++) {
    entry *kept = entry_find(self, PQgetvalue(result, row, 0));
    if (kept != NULL) kept->seen = self->round;
  }
  for (entry *at = self->first, *next; at != NULL; at = next) {
    next = at->next;
    if (at->seen == self->round || at->revision > asked) continue;
    lost_key *lost = malloc(sizeof *lost);
    if (lost == NULL) return; /* the next round finds it again */
    lost->key = at->values[0];
    lost->next = self->lost;
    self->lost = lost;
    entry_unlink(self, at);
    at->values[0] = NULL;
    entry_free(at);
  }
}

static void keep_error(char error[PG_HEARTBEAT_ERROR], const char *message) {
  snprintf(error, PG_HEARTBEAT_ERROR, "%s", message);
  error[strcspn(error, "\n")] = '\0';
}

/* How long the server may take for a round, and a network for an acknowledgement. */
static double round_ms(const pg_heartbeat *self) {
  return 1000 * (self->interval > ROUND_SECONDS_LEAST ? self->interval : ROUND_SECONDS_LEAST);
}

static bool connect_once(pg_heartbeat *self, char error[PG_HEARTBEAT_ERROR]) {
  if (self->pg != NULL && PQstatus(self->pg) == CONNECTION_OK) return true;
  PQfinish(self->pg);
  self->pg = NULL;
  size_t hosts = pg_config_hosts(self->config);
  struct addrinfo **unresolved =
      calloc(hosts, sizeof *unresolved); /* this thread may wait for DNS */
  pg_config_params params;
  bool made = unresolved != NULL && pg_config_params_make(self->config, unresolved, 0, &params);
  free(unresolved);
  if (!made) {
    keep_error(error, "out of memory");
    return false;
  }
  self->pg = PQconnectdbParams(params.keywords, params.values, 0);
  pg_config_params_free(&params);
  char setting[64];
  snprintf(setting, sizeof setting, "SET statement_timeout = %.0f", round_ms(self));
  PGresult *set = PQexec(self->pg, setting);
  bool ok = PQresultStatus(set) == PGRES_COMMAND_OK;
  PQclear(set);
  if (!ok) keep_error(error, PQerrorMessage(self->pg));
  return ok;
}

/* One round; called with the lock held, which it gives up for the server's time. */
static bool beat(pg_heartbeat *self) {
  text columns[PG_HEARTBEAT_COLUMNS] = {0};
  const char *values[PG_HEARTBEAT_COLUMNS];
  char error[PG_HEARTBEAT_ERROR] = "out of memory";
  bool ok = collect(self, columns);
  bool empty = self->first == NULL;
  uint64_t asked = self->revision;
  pthread_mutex_unlock(&self->lock);
  PGresult *result = NULL;
  for (int i = 0; i < self->columns; i++)
    values[i] = columns[i].bytes;
  if (ok && !empty && connect_once(self, error)) {
    result = PQexecParams(self->pg, self->sql, self->columns, NULL, values, NULL, NULL, 0);
    if (PQresultStatus(result) != PGRES_TUPLES_OK) {
      keep_error(error, PQerrorMessage(self->pg));
      PQclear(result);
      result = NULL;
      PQfinish(self->pg);
      self->pg = NULL;
    }
  }
  for (int i = 0; i < self->columns; i++)
    free(columns[i].bytes);
  pthread_mutex_lock(&self->lock);
  if (ok && empty) return true;
  if (result == NULL) {
    self->stats.failures++;
    memcpy(self->stats.error, error, sizeof error);
    return false;
  }
  self->stats.rounds++;
  self->stats.error[0] = '\0';
  judge(self, result, asked);
  PQclear(result);
  return true;
}

static void *run(void *argument) {
  pg_heartbeat *self = argument;
  pthread_mutex_lock(&self->lock);
  double pause = self->interval;
  while (!self->stopping) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double nanoseconds = (double)until.tv_nsec + pause * 1e9;
    until.tv_sec += (time_t)(nanoseconds / 1e9);
    until.tv_nsec = (long)(nanoseconds - (double)(time_t)(nanoseconds / 1e9) * 1e9);
    int waited = 0;
    while (!self->stopping && waited == 0)
      waited = pthread_cond_timedwait(&self->changed, &self->lock, &until);
    if (!self->stopping) pause = beat(self) ? self->interval : self->interval / RETRY_DIVISOR;
  }
  bool last = --self->owners == 0;
  PGconn *pg = self->pg;
  self->pg = NULL;
  pthread_mutex_unlock(&self->lock);
  PQfinish(pg);
  if (last) heartbeat_free(self);
  return NULL;
}

static bool start_thread(pg_heartbeat *self) {
  pthread_attr_t attributes;
  pthread_t thread;
  sigset_t all, before;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the loop's thread */
  bool ok = pthread_create(&thread, &attributes, run, self) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return ok;
}

pg_heartbeat *pg_heartbeat_start(pg_config *config, const char *sql, int columns,
                                 double interval_seconds) {
  pg_heartbeat *self = calloc(1, sizeof *self);
  if (self != NULL) self->interval = interval_seconds;
  char timeout_ms[32], connect_seconds[16];
  snprintf(timeout_ms, sizeof timeout_ms, "%.0f", self != NULL ? round_ms(self) : 0);
  snprintf(connect_seconds, sizeof connect_seconds, "%d", CONNECT_SECONDS);
  if (self == NULL || !pg_config_set(config, "connect_timeout", connect_seconds) ||
      !pg_config_set(config, "tcp_user_timeout", timeout_ms)) {
    free(self);
    pg_config_free(config);
    return NULL;
  }
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_mutex_init(&self->lock, NULL);
  pthread_cond_init(&self->changed, &monotonic);
  pthread_condattr_destroy(&monotonic);
  self->config = config;
  self->columns = columns;
  self->sql = strdup(sql);
  self->owners = 2;
  if (self->sql != NULL && start_thread(self)) return self;
  heartbeat_free(self);
  return NULL;
}

void pg_heartbeat_stop(pg_heartbeat *self) {
  if (self == NULL) return;
  pthread_mutex_lock(&self->lock);
  self->stopping = true;
  bool last = --self->owners == 0;
  pthread_cond_signal(&self->changed);
  pthread_mutex_unlock(&self->lock);
  if (last) heartbeat_free(self);
}
