/* pattern.c: the matching algorithm of Lua 5.4's lstrlib.c (MIT licence, PUC-Rio), written anew so
 * that each step is counted and no step can leave by longjmp. */
#include "sandbox/pattern.h"

#include <ctype.h>
#include <string.h>

enum { DEPTH_MOST = 200 };
#define ESCAPE '%'

static const char *do_match(pattern_state *self, const char *s, const char *p);

/* Every failure sets `problem`; NULL without a problem means "no match". */
static const char *refuse(pattern_state *self, const char *problem) {
  if (self->problem == NULL) self->problem = problem;
  return NULL;
}

static const char STEPS_SPENT[] = "pattern takes too many steps";

static bool step(pattern_state *self) {
  if (self->problem != NULL) return false;
  if (--self->steps >= 0 || self->more(self)) return true;
  refuse(self, STEPS_SPENT);
  return false;
}

static unsigned char byte_at(const char *s) {
  return (unsigned char)*s;
}

static const char *class_end(pattern_state *self, const char *p) {
  if (*p++ == ESCAPE) {
    if (p == self->pattern_end) return refuse(self, "malformed pattern (ends with '%')");
    return p + 1;
  }
  if (p[-1] != '[') return p;
  if (p < self->pattern_end && *p == '^') p++;
  do {
    if (p >= self->pattern_end) return refuse(self, "malformed pattern (missing ']')");
    if (*p++ == ESCAPE) p++;
  } while (p >= self->pattern_end || *p != ']');
  return p + 1;
}

static bool match_class(unsigned char c, unsigned char class) {
  bool result;
  switch (tolower(class)) {
  case 'a': result = isalpha(c) != 0; break;
  case 'c': result = iscntrl(c) != 0; break;
  case 'd': result = isdigit(c) != 0; break;
  case 'g': result = isgraph(c) != 0; break;
  case 'l': result = islower(c) != 0; break;
  case 'p': result = ispunct(c) != 0; break;
  case 's': result = isspace(c) != 0; break;
  case 'u': result = isupper(c) != 0; break;
  case 'w': result = isalnum(c) != 0; break;
  case 'x': result = isxdigit(c) != 0; break;
  case 'z': result = c == 0; break; // deprecated, and still in 5.4
  default: return class == c;
  }
  return isupper(class) ? !result : result;
}

/* p at '[', end at its ']'. */
static bool match_set(unsigned char c, const char *p, const char *end) {
  bool found = true;
  if (p[1] == '^') {
    found = false;
    p++;
  }
  while (++p < end) {
    if (*p == ESCAPE) {
      p++;
      if (match_class(c, byte_at(p))) return found;
    } else if (p[1] == '-' && p + 2 < end) {
      p += 2;
      if (byte_at(p - 2) <= c && c <= byte_at(p)) return found;
    } else if (byte_at(p) == c) {
      return found;
    }
  }
  return !found;
}

static bool match_single(pattern_state *self, const char *s, const char *p, const char *end) {
  if (s >= self->subject_end) return false;
  switch (*p) {
  case '.': return true;
  case ESCAPE: return match_class(byte_at(s), byte_at(p + 1));
  case '[': return match_set(byte_at(s), p, end - 1);
  default: return *p == *s;
  }
}

static const char *match_balance(pattern_state *self, const char *s, const char *p) {
  if (p + 1 >= self->pattern_end)
    return refuse(self, "malformed pattern (missing arguments to '%b')");
  if (s >= self->subject_end || *s != *p) return NULL;
  int depth = 1;
  while (++s < self->subject_end && step(self)) {
    if (*s == p[1]) {
      if (--depth == 0) return s + 1;
    } else if (*s == *p) {
      depth++;
    }
  }
  return NULL;
}

static const char *max_expand(pattern_state *self, const char *s, const char *p, const char *end) {
  ptrdiff_t count = 0;
  while (step(self) && match_single(self, s + count, p, end))
    count++;
  for (; count >= 0 && step(self); count--) {
    const char *result = do_match(self, s + count, end + 1);
    if (result != NULL) return result;
  }
  return NULL;
}

static const char *min_expand(pattern_state *self, const char *s, const char *p, const char *end) {
  while (step(self)) {
    const char *result = do_match(self, s, end + 1);
    if (result != NULL) return result;
    if (!match_single(self, s, p, end)) return NULL;
    s++;
  }
  return NULL;
}

static const char *capture_open(pattern_state *self, const char *s, const char *p, int what) {
  if (self->captures >= PATTERN_CAPTURES_MOST) return refuse(self, "too many captures");
  self->capture[self->captures++] = (pattern_capture){s, what};
  const char *result = do_match(self, s, p);
  if (result == NULL) self->captures--;
  return result;
}

static const char *capture_close(pattern_state *self, const char *s, const char *p) {
  int level = self->captures - 1;
  while (level >= 0 && self->capture[level].length != PATTERN_UNCLOSED)
    level--;
  if (level < 0) return refuse(self, "invalid pattern capture");
  self->capture[level].length = s - self->capture[level].start;
  const char *result = do_match(self, s, p);
  if (result == NULL) self->capture[level].length = PATTERN_UNCLOSED;
  return result;
}

static const char *match_back(pattern_state *self, const char *s, char digit) {
  int level = digit - '1';
  if (level < 0 || level >= self->captures || self->capture[level].length < 0)
    return refuse(self, "invalid capture index in the pattern");
  size_t length = (size_t)self->capture[level].length;
  self->steps -= (int64_t)length / 16;
  if ((size_t)(self->subject_end - s) < length) return NULL;
  return memcmp(self->capture[level].start, s, length) == 0 ? s + length : NULL;
}

static bool match_frontier(pattern_state *self, const char *s, const char *p, const char *end) {
  unsigned char before = s == self->subject ? 0 : byte_at(s - 1);
  unsigned char here = s == self->subject_end ? 0 : byte_at(s);
  return !match_set(before, p, end - 1) && match_set(here, p, end - 1);
}

/* The items that take more than one character or none: '(', ')', '$', %b, %f, %1. True where *p was
 * one: then *result holds the outcome, or s and p go on (*result NULL, *done false). */
static bool match_special(pattern_state *self, const char **s, const char **p, bool *done,
                          const char **result) {
  *done = true;
  switch (**p) {
  case '(':
    *result = (*p)[1] == ')' ? capture_open(self, *s, *p + 2, PATTERN_POSITION)
                             : capture_open(self, *s, *p + 1, PATTERN_UNCLOSED);
    return true;
  case ')': *result = capture_close(self, *s, *p + 1); return true;
  case '$':
    if (*p + 1 != self->pattern_end) return false;
    *result = *s == self->subject_end ? *s : NULL;
    return true;
  case ESCAPE: break;
  default: return false;
  }
  char kind = *p + 1 < self->pattern_end ? (*p)[1] : 0;
  const char *next = NULL;
  if (kind == 'b') {
    next = match_balance(self, *s, *p + 2);
    *p += 4;
  } else if (kind == 'f') {
    *p += 2;
    if (*p >= self->pattern_end || **p != '[') {
      refuse(self, "missing '[' after '%f' in the pattern");
    } else {
      const char *end = class_end(self, *p);
      if (end != NULL && match_frontier(self, *s, *p, end)) next = *s;
      *p = end;
    }
  } else if (isdigit((unsigned char)kind)) {
    next = match_back(self, *s, kind);
    *p += 2;
  } else {
    return false;
  }
  *result = NULL;
  if (next != NULL) {
    *s = next;
    *done = false;
  }
  return true;
}

static const char *match_from(pattern_state *self, const char *s, const char *p) {
  while (p != self->pattern_end) {
    const char *result = NULL;
    bool done = false;
    if (!step(self)) return NULL;
    if (match_special(self, &s, &p, &done, &result)) {
      if (done) return result;
      continue;
    }
    const char *end = class_end(self, p);
    if (end == NULL) return NULL;
    char suffix = end < self->pattern_end ? *end : 0;
    bool matches = match_single(self, s, p, end);
    switch (suffix) {
    case '?':
      if (matches) {
        result = do_match(self, s + 1, end + 1);
        if (result != NULL) return result;
      }
      p = end + 1;
      break;
    case '+': return matches ? max_expand(self, s + 1, p, end) : NULL;
    case '*': return max_expand(self, s, p, end);
    case '-': return min_expand(self, s, p, end);
    default:
      if (!matches) return NULL;
      s++;
      p = end;
    }
  }
  return s;
}

static const char *do_match(pattern_state *self, const char *s, const char *p) {
  if (++self->depth > DEPTH_MOST) refuse(self, "pattern too complex");
  const char *result = self->problem == NULL ? match_from(self, s, p) : NULL;
  self->depth--;
  return self->problem == NULL ? result : NULL;
}

pattern_status pattern_match(pattern_state *self, const char *at, const char *pattern,
                             const char **end) {
  self->captures = 0;
  self->depth = 0;
  self->problem = NULL;
  *end = do_match(self, at, pattern);
  if (self->problem == STEPS_SPENT) return PATTERN_TOO_MUCH;
  if (self->problem != NULL) return PATTERN_MALFORMED;
  if (*end == NULL) return PATTERN_NO_MATCH;
  for (int i = 0; i < self->captures; i++) {
    if (self->capture[i].length == PATTERN_UNCLOSED) {
      self->problem = "unfinished capture";
      return PATTERN_MALFORMED;
    }
  }
  return PATTERN_MATCHED;
}
