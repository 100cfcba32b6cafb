/* retry.c: see retry.h. The quota's numbers are those of the AWS SDKs' standard retry mode. */
#include "s3/retry.h"

#include <openssl/rand.h>
#include <stdint.h>

enum { QUOTA = 500, COST = 5, COST_OF_TIMEOUT = 10 };

#define FIRST_CEILING 0.1 /* seconds */
#define LAST_CEILING 20.0
#define LONGEST_ASKED 60.0 /* a server that asks for more is not waited for that long */

void retry_quota_init(retry_quota *self) {
  self->tokens = QUOTA;
}

static double random_fraction(void) {
  uint32_t bits = 0;
  if (RAND_bytes((unsigned char *)&bits, sizeof bits) != 1) return 0.5;
  return bits / 4294967296.0;
}

bool retry_take(retry_quota *self, retry_state *state, int attempts_most, bool timed_out,
                double retry_after, double *wait) {
  int cost = timed_out ? COST_OF_TIMEOUT : COST;
  if (state->attempts >= attempts_most || self->tokens < cost) return false;
  self->tokens -= cost;
  state->taken = cost;
  double ceiling = FIRST_CEILING;
  for (int i = 1; i < state->attempts && ceiling < LAST_CEILING; i++)
    ceiling *= 2;
  if (ceiling > LAST_CEILING) ceiling = LAST_CEILING;
  *wait = ceiling * random_fraction();
  if (retry_after > LONGEST_ASKED) retry_after = LONGEST_ASKED;
  if (*wait < retry_after) *wait = retry_after;
  return true;
}

void retry_succeeded(retry_quota *self, const retry_state *state) {
  self->tokens += state->taken > 0 ? state->taken : 1;
  if (self->tokens > QUOTA) self->tokens = QUOTA;
}
