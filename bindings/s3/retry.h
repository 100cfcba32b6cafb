/* retry.h: when to try a request again, and when to stop trying at all.
 *
 * Waits are drawn between 0 and a doubling ceiling ("full jitter": Brooker, "Exponential Backoff
 * And Jitter", AWS Architecture Blog), at least what the server asked for. A quota that all
 * requests of one client share ends retry storms: each retry takes tokens out of it, successes put
 * some back. */
#ifndef NEBULA_S3_RETRY_H
#define NEBULA_S3_RETRY_H

#include <stdbool.h>

typedef struct retry_quota {
  int tokens;
} retry_quota;

/* One request's retries so far. */
typedef struct retry_state {
  int attempts; /* made, the first included */
  int taken;    /* tokens of the last retry */
} retry_state;

void retry_quota_init(retry_quota *self);

/* Asks for one more attempt. False where attempts or quota are used up; else *wait is how many
 * seconds to wait first. */
bool retry_take(retry_quota *self, retry_state *state, int attempts_most, bool timed_out,
                double retry_after, double *wait);

/* The request succeeded: what its last retry took goes back, or one token where none was needed. */
void retry_succeeded(retry_quota *self, const retry_state *state);

#endif
