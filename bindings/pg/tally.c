/* tally.c: counting a statement's runs. */
#include "pg/tally.h"
#include <math.h>

/* Two buckets an octave: (2 i)-th ends at 2^i us, the one after it at 1.41 of that. */
static size_t bucket_of(double us) {
  if (us <= 1) return 0;
  int exponent;
  double fraction = frexp(us, &exponent); /* us = fraction * 2^exponent, 0.5 <= fraction < 1 */
  int bucket = 2 * (exponent - 1) + (fraction > M_SQRT1_2 ? 2 : fraction > 0.5 ? 1 : 0);
  return bucket < PG_TALLY_BUCKETS ? (size_t)bucket : PG_TALLY_BUCKETS - 1;
}

void pg_tally_add(pg_tally *self, double seconds, uint64_t rows, bool failed) {
  self->runs++;
  self->errors += failed;
  self->rows += rows;
  self->seconds += seconds;
  if (seconds > self->longest) self->longest = seconds;
  self->buckets[bucket_of(seconds * 1e6)]++;
}

double pg_tally_bound(size_t bucket) {
  if (bucket + 1 >= PG_TALLY_BUCKETS) return HUGE_VAL;
  return ldexp(bucket % 2 == 0 ? 1e-6 : 1e-6 * M_SQRT2, (int)(bucket / 2));
}

double pg_tally_quantile(const pg_tally *self, double part) {
  double wanted = part * (double)self->runs, seen = 0;
  for (size_t i = 0; i < PG_TALLY_BUCKETS && self->runs > 0; i++) {
    seen += self->buckets[i];
    if (seen < wanted) continue;
    double bound = pg_tally_bound(i);
    return bound < self->longest ? bound : self->longest;
  }
  return 0;
}
