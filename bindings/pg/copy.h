/* copy.h: the data of a COPY, in either direction, with backpressure.
 *
 * Out: what the server sends is collected up to PG_COPY_BUFFER bytes, then the socket is left alone
 * until the caller has taken it; a caller that waits is woken once there are PG_COPY_PIECE. In: the
 * caller puts a piece, and waits while libpq holds bytes that the socket would not take. All on the
 * loop's thread. */
#ifndef NEBULA_PG_COPY_H
#define NEBULA_PG_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include "json/json_buffer.h"
#include "pg/conn.h"
#include "pg/copy_json.h"

enum { PG_COPY_BUFFER = 256 << 10, PG_COPY_PIECE = 64 << 10 };

struct pg_copy {
  bool started; /* the server agreed */
  bool in;      /* data goes to the server */
  bool ended;   /* no more data in either direction */
  bool json;    /* out: one column of JSON, written plain, a line each */
  pg_copy_json
      *objects; /* out: rows as objects, from the binary format; owned; NULL: as they come */
  bool wanted;  /* the caller waits: done() is called when there is news */
  int columns;
  json_buffer data; /* out: not yet taken */
};

/* For request.c: frees it. */
void pg_copy_free(pg_copy *self);

/* For conn_read.c: the server agreed to copy. */
void pg_copy_start(pg_request *request, const PGresult *result);

/* For conn_read.c: reads what has come. 1: all data are in, a result follows; 0: wait; -1: broken,
 * or out of memory. */
int pg_copy_read(pg_conn *conn, pg_request *request);

/* Tells a caller that waits. */
void pg_copy_tell(pg_request *request);

/* In: sends a piece. 1: go on; 0: wait until done() is called; -1: the connection is broken. */
int pg_copy_put(pg_request *request, const char *data, size_t length);

/* In: that was all, or, with a reason, the whole is to fail. False: the connection is broken. */
bool pg_copy_end(pg_request *request, const char *reason);

/* Out: the caller has taken what there was. */
void pg_copy_taken(pg_request *request);

/* The caller gives up: what was copied in is undone by the server, what comes out is dropped. */
void pg_copy_abort(pg_request *request);

#endif
