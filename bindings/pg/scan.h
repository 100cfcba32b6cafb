/* scan.h: what a piece of SQL is, as far as the pool must know before it sends it.
 *
 * The pool shares a connection between callers only for statements that cannot leave the session in
 * another state than they found it. The scanner looks at the first word of each statement in the
 * text, past comments, quotes and dollar quotes, and for the names of the functions that change a
 * session; it is no parser and needs no catalogue, so it cannot know what a function of the user's
 * does. */
#ifndef NEBULA_PG_SCAN_H
#define NEBULA_PG_SCAN_H

#include <stdbool.h>
#include <stddef.h>

typedef enum pg_class {
  PG_CLASS_EMPTY,   /* nothing but space and comments */
  PG_CLASS_READ,    /* SELECT, VALUES: may share a connection */
  PG_CLASS_WRITE,   /* INSERT, UPDATE, DELETE, WITH: may share a connection */
  PG_CLASS_CONTROL, /* BEGIN, COMMIT, SAVEPOINT and their like */
  PG_CLASS_COPY,    /* COPY: needs the copy protocol */
  PG_CLASS_OTHER,   /* all else: runs alone */
} pg_class;

enum { PG_SCAN_WORD = 24 };

typedef struct pg_scan {
  pg_class kind;       /* of the first statement; OTHER where there are several */
  unsigned statements; /* how many, separated by semicolons */
  bool control;        /* one of them is transaction control */
  bool modifies;       /* INSERT, UPDATE, DELETE or MERGE stands in it somewhere */
  bool forgets;        /* DISCARD ALL or DEALLOCATE: prepared statements may be gone */
  bool session;        /* calls a function that changes the session: set_config, advisory locks */
  char word[PG_SCAN_WORD]; /* the word that decided, in upper case, for messages */
} pg_scan;

void pg_scan_sql(const char *sql, size_t length, pg_scan *out);

/* Writes the SQL as a log may show it: literals as ?, no comments, cut to the room. Returns the
 * length; the text ends with a NUL. */
size_t pg_scan_redact(const char *sql, size_t length, char *out, size_t room);

/* The next $1 or $23 outside of quotes and comments, or the end. */
const char *pg_scan_parameter(const char *sql, const char *end);

#endif
