/* tally.h: how often a statement ran, how it ended and how long it took: counters, and a histogram
 * whose buckets grow by the square root of two, from a microsecond to more than an hour. */
#ifndef NEBULA_PG_TALLY_H
#define NEBULA_PG_TALLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PG_TALLY_BUCKETS = 64 };

typedef struct pg_tally {
  uint64_t runs, errors, rows;
  double seconds, longest;
  uint32_t buckets[PG_TALLY_BUCKETS];
} pg_tally;

void pg_tally_add(pg_tally *self, double seconds, uint64_t rows, bool failed);

/* The upper bound of a bucket in seconds; the last one has none, and says HUGE_VAL. */
double pg_tally_bound(size_t bucket);

/* The time in seconds within which this part (0 to 1) of the runs was done, at most by a bucket's
 * width more; 0 where nothing ran. */
double pg_tally_quantile(const pg_tally *self, double part);

#endif
