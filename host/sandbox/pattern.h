/* pattern.h: Lua's patterns with a bound on the work: plain C.
 *
 * The stock matcher backtracks without asking anybody, so that a short pattern can take hours and
 * no hook ever runs. This one counts its steps, and asks now and then whether it may go on. */
#ifndef NEBULA_HOST_SANDBOX_PATTERN_H
#define NEBULA_HOST_SANDBOX_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PATTERN_CAPTURES_MOST = 32 };

typedef enum pattern_status {
  PATTERN_MATCHED,
  PATTERN_NO_MATCH,
  PATTERN_MALFORMED, /* `problem` says why */
  PATTERN_TOO_MUCH,  /* `more` gave no more steps */
} pattern_status;

typedef struct pattern_capture {
  const char *start;
  ptrdiff_t length; /* or PATTERN_POSITION */
} pattern_capture;

enum { PATTERN_UNCLOSED = -1, PATTERN_POSITION = -2 };

typedef struct pattern_state pattern_state;

struct pattern_state {
  const char *subject, *subject_end;
  const char *pattern_end;
  int64_t steps; /* what is left before `more` is asked; below zero: what was taken beyond */
  /* Raises `steps` above zero, or returns false. It must not jump. */
  bool (*more)(pattern_state *self);
  void *data; /* of `more` */
  const char *problem;
  int depth;
  int captures;
  pattern_capture capture[PATTERN_CAPTURES_MOST];
};

/* Matches the pattern (without its leading '^') at `at`. On PATTERN_MATCHED *end is where it ends
 * and the captures are set. */
pattern_status pattern_match(pattern_state *self, const char *at, const char *pattern,
                             const char **end);

#endif
