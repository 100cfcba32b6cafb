/* heartbeat.h: one statement repeated by a thread of its own, on a connection of its own.
 *
 * Leases must be renewed also while a script computes and the loop does not turn. A heartbeat keeps
 * a set of entries, each a row of text values whose first is its key; every `interval` its thread
 * runs the statement once, with one text array a column as $1, $2, ..., and takes the first column
 * of what comes back as the keys that are still good. Entries that did not come back are lost: they
 * leave the set, and the owner finds them with pg_heartbeat_next_lost. An entry past its time is
 * dropped unasked. A round that fails changes nothing and is tried again sooner.
 *
 * The functions are for the owner's thread and never wait for the network. */
#ifndef NEBULA_PG_HEARTBEAT_H
#define NEBULA_PG_HEARTBEAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "pg/config.h"

enum { PG_HEARTBEAT_COLUMNS = 8, PG_HEARTBEAT_ERROR = 200 };

typedef struct pg_heartbeat pg_heartbeat;

typedef struct pg_heartbeat_stats {
  size_t entries;
  uint64_t rounds, failures;      /* rounds that succeeded; that did not */
  char error[PG_HEARTBEAT_ERROR]; /* of the last round, "" where it succeeded */
} pg_heartbeat_stats;

/* Takes the configuration over, also where it fails (NULL: out of memory or threads). */
pg_heartbeat *pg_heartbeat_start(pg_config *config, const char *sql, int columns,
                                 double interval_seconds);

/* Ends the thread; it frees what is left, at the latest when the server answers. */
void pg_heartbeat_stop(pg_heartbeat *self);

/* Adds an entry, or replaces the one with that key. A value may be NULL, the key not. until_ns is
 * uv_hrtime's, 0 for no end. False on a lack of memory. */
bool pg_heartbeat_set(pg_heartbeat *self, const char *const values[], uint64_t until_ns);

void pg_heartbeat_remove(pg_heartbeat *self, const char *key);

/* A key that was lost, which the caller frees, or NULL. */
char *pg_heartbeat_next_lost(pg_heartbeat *self);

void pg_heartbeat_stats_get(pg_heartbeat *self, pg_heartbeat_stats *out);

#endif
