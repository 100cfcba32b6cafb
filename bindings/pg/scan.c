/* scan.c: finds the first word of each statement in a text. */
#include "pg/scan.h"
#include <string.h>

typedef struct cursor {
  const char *at, *end;
} cursor;

static bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80;
}

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static bool next_is(const cursor *self, char second) {
  return self->at + 1 < self->end && self->at[1] == second;
}

/* `--` to the end of the line, and nested block comments. */
static void skip_comment(cursor *self) {
  if (*self->at == '-') {
    while (self->at < self->end && *self->at != '\n')
      self->at++;
    return;
  }
  unsigned depth = 0;
  while (self->at < self->end) {
    if (*self->at == '/' && next_is(self, '*')) {
      depth++;
      self->at += 2;
    } else if (*self->at == '*' && next_is(self, '/')) {
      depth--;
      self->at += 2;
      if (depth == 0) return;
    } else {
      self->at++;
    }
  }
}

/* A quoted string or identifier; a doubled quote starts the next one at once, which is the same. */
static void skip_quoted(cursor *self, bool backslashes) {
  char quote = *self->at++;
  while (self->at < self->end) {
    char c = *self->at++;
    if (c == quote) return;
    if (backslashes && c == '\\' && self->at < self->end) self->at++;
  }
}

/* $tag$ ... $tag$; a lone dollar, as in $1, is passed over. */
static void skip_dollar(cursor *self) {
  const char *tag = self->at, *p = tag + 1;
  while (p < self->end && (is_letter(*p) || (p > tag + 1 && is_digit(*p))))
    p++;
  if (p >= self->end || *p != '$') {
    self->at++;
    return;
  }
  size_t length = (size_t)(p + 1 - tag);
  for (p = p + 1; p + length <= self->end; p++) {
    if (*p == '$' && memcmp(p, tag, length) == 0) {
      self->at = p + length;
      return;
    }
  }
  self->at = self->end;
}

/* The word at the cursor in upper case, cut to the buffer; the cursor moves past it. */
static void read_word(cursor *self, char word[PG_SCAN_WORD]) {
  size_t n = 0;
  while (self->at < self->end &&
         (is_letter(*self->at) || is_digit(*self->at) || *self->at == '$')) {
    char c = *self->at++;
    if (n < PG_SCAN_WORD - 1) word[n++] = c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
  }
  word[n] = '\0';
}

static pg_class classify(const char *word) {
  static const struct {
    const char *word;
    pg_class kind;
  } WORDS[] = {
      {"SELECT", PG_CLASS_READ},       {"VALUES", PG_CLASS_READ},      {"INSERT", PG_CLASS_WRITE},
      {"UPDATE", PG_CLASS_WRITE},      {"DELETE", PG_CLASS_WRITE},     {"WITH", PG_CLASS_WRITE},
      {"BEGIN", PG_CLASS_CONTROL},     {"START", PG_CLASS_CONTROL},    {"COMMIT", PG_CLASS_CONTROL},
      {"END", PG_CLASS_CONTROL},       {"ROLLBACK", PG_CLASS_CONTROL}, {"ABORT", PG_CLASS_CONTROL},
      {"SAVEPOINT", PG_CLASS_CONTROL}, {"RELEASE", PG_CLASS_CONTROL},  {"COPY", PG_CLASS_COPY},
  };
  for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++)
    if (strcmp(word, WORDS[i].word) == 0) return WORDS[i].kind;
  return PG_CLASS_OTHER;
}

/* Where the scanner stands inside one statement. */
typedef struct statement {
  unsigned words;
  unsigned body; /* depth of BEGIN ATOMIC ... END, where semicolons do not end the statement */
  bool prepare;
  char last[PG_SCAN_WORD];
} statement;

static bool is_modifying(const char *word) {
  return strcmp(word, "INSERT") == 0 || strcmp(word, "UPDATE") == 0 ||
         strcmp(word, "DELETE") == 0 || strcmp(word, "MERGE") == 0;
}

/* Functions whose effect outlasts the transaction. */
static bool is_of_session(const char *word) {
  static const char LOCK[] = "PG_ADVISORY_LOCK", TRY[] = "PG_TRY_ADVISORY_LOCK";
  return strcmp(word, "SET_CONFIG") == 0 || strncmp(word, LOCK, sizeof LOCK - 1) == 0 ||
         strncmp(word, TRY, sizeof TRY - 1) == 0;
}

static void see_word(statement *self, const char *word, pg_scan *out) {
  if (is_modifying(word)) out->modifies = true;
  if (is_of_session(word)) out->session = true;
  if (self->words == 1 && strcmp(self->last, "DISCARD") == 0 && strcmp(word, "ALL") == 0)
    out->forgets = true;
  if (self->words++ == 0) {
    pg_class kind = classify(word);
    self->prepare = strcmp(word, "PREPARE") == 0;
    if (strcmp(word, "DEALLOCATE") == 0) out->forgets = true;
    if (out->statements++ == 0) {
      out->kind = kind;
      memcpy(out->word, word, sizeof out->word);
    } else if (kind == PG_CLASS_CONTROL && !out->control) {
      memcpy(out->word, word, sizeof out->word);
    }
    if (kind == PG_CLASS_CONTROL) out->control = true;
  } else if (self->words == 2 && self->prepare && strcmp(word, "TRANSACTION") == 0) {
    out->control = true;
    if (out->statements == 1) out->kind = PG_CLASS_CONTROL;
  } else if (strcmp(word, "ATOMIC") == 0 && strcmp(self->last, "BEGIN") == 0) {
    self->body++;
  } else if (self->body > 0 && strcmp(word, "CASE") == 0) {
    self->body++;
  } else if (self->body > 0 && strcmp(word, "END") == 0) {
    self->body--;
  }
  memcpy(self->last, word, sizeof self->last);
}

/* Moves past a comment, a quotation or a number at the cursor; false where there is none. */
static bool skip_opaque(cursor *c) {
  char ch = *c->at;
  if ((ch == '-' && next_is(c, '-')) || (ch == '/' && next_is(c, '*'))) {
    skip_comment(c);
  } else if (ch == '\'' || ch == '"') {
    skip_quoted(c, false);
  } else if ((ch == 'e' || ch == 'E') && next_is(c, '\'')) {
    c->at++;
    skip_quoted(c, true);
  } else if (is_digit(ch)) {
    while (c->at < c->end && (is_digit(*c->at) || is_letter(*c->at)))
      c->at++;
  } else {
    return false;
  }
  return true;
}

const char *pg_scan_parameter(const char *sql, const char *end) {
  cursor c = {sql, end};
  while (c.at < c.end) {
    char word[PG_SCAN_WORD];
    if (skip_opaque(&c)) continue;
    if (*c.at == '$' && c.at + 1 < c.end && is_digit(c.at[1])) return c.at;
    if (*c.at == '$')
      skip_dollar(&c);
    else if (is_letter(*c.at))
      read_word(&c, word);
    else
      c.at++;
  }
  return c.end;
}

/* What began there and has been moved past is a string. */
static bool was_string(const char *from, const char *end) {
  if (*from == '$') return end - from > 1;
  return *from == '\'' || ((*from == 'e' || *from == 'E') && end - from > 1 && from[1] == '\'');
}

static bool is_blank(const char *from) {
  return *from == ' ' || *from == '\n' || *from == '\t' || *from == '\r';
}

size_t pg_scan_redact(const char *sql, size_t length, char *out, size_t room) {
  cursor c = {sql, sql + length};
  size_t n = 0;
  bool space = false;
  while (c.at < c.end) {
    const char *from = c.at;
    char word[PG_SCAN_WORD];
    if (is_letter(*from) && !was_string(from, c.end)) {
      read_word(&c, word);
    } else if (*from == '$') {
      skip_dollar(&c);
    } else if (!skip_opaque(&c)) {
      c.at++;
    }
    bool comment = c.at - from > 1 && (*from == '-' || *from == '/');
    if (comment || is_blank(from)) {
      space = n > 0;
      continue;
    }
    bool string = was_string(from, c.at);
    while (string && c.at < c.end && *c.at == '\'') /* a doubled quote */
      skip_quoted(&c, *from == 'e' || *from == 'E');
    size_t more = string ? 1 : (size_t)(c.at - from);
    if (n + more + 5 > room) {
      memcpy(out + n, "...", 4);
      return n + 3;
    }
    if (space) out[n++] = ' ';
    space = false;
    memcpy(out + n, string ? "?" : from, more);
    n += more;
  }
  out[n] = '\0';
  return n;
}

void pg_scan_sql(const char *sql, size_t length, pg_scan *out) {
  *out = (pg_scan){.kind = PG_CLASS_EMPTY};
  cursor c = {sql, sql + length};
  statement s = {0};
  while (c.at < c.end) {
    if (skip_opaque(&c)) continue;
    char ch = *c.at;
    if (ch == '$') {
      skip_dollar(&c);
    } else if (is_letter(ch)) {
      char word[PG_SCAN_WORD];
      read_word(&c, word);
      see_word(&s, word, out);
    } else if (ch == ';') {
      c.at++;
      if (s.body == 0) s = (statement){0};
    } else {
      c.at++;
    }
  }
  if (out->statements > 1) out->kind = out->control ? PG_CLASS_CONTROL : PG_CLASS_OTHER;
}
