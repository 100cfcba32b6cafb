/* listen.h: notifications, on a connection of their own beside the pool's.
 *
 * All subscriptions of a pool share one connection, opened with the first and closed with the last.
 * Where nothing was heard for a while it is asked for a sign of life; where it breaks, it is opened
 * again, with growing pauses, and listens again. What was notified in between is lost, as always
 * with PostgreSQL: a subscription is told when it listens again, so that its owner can look for
 * what it has missed.
 *
 * On the loop's thread; the events are called from the loop, or from pg_pool_close. */
#ifndef NEBULA_PG_LISTEN_H
#define NEBULA_PG_LISTEN_H

#include <stdbool.h>
#include "pg/pool.h"

typedef struct pg_listener pg_listener;
typedef struct pg_subscription pg_subscription;

enum { PG_CHANNEL_MOST = 63 };

typedef struct pg_subscription_events {
  /* The server listens; `again`: after its connection was lost. */
  void (*confirmed)(void *data, bool again);
  void (*notified)(void *data, const char *payload, int pid);
  /* It could not be made, or the pool was closed. Nothing more will come. */
  void (*over)(void *data, const char *why);
} pg_subscription_events;

/* Starts to listen; NULL on a lack of memory. The channel has 1 to PG_CHANNEL_MOST bytes. A sign of
 * life is asked for after `ping` seconds of silence, the shortest of all subscriptions. */
pg_subscription *pg_subscribe(pg_pool *pool, const char *channel, double ping,
                              const pg_subscription_events *events, void *data);

/* Ends and frees it, exactly once, also after `over`; no event follows. */
void pg_subscription_end(pg_subscription *self);

/* For pool*.c: the pool closes; the pool is gone. Safe with NULL. */
void pg_listener_close(pg_listener *self);
void pg_listener_free(pg_listener *self);

#endif
