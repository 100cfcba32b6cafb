/* hold.h: several Syncs in one write.
 *
 * Before version 17, libpq puts a Sync behind a statement by PQpipelineSync alone, which writes to
 * the socket each time: a system call for each statement, and its backend woken for each. While
 * that function runs the socket answers EAGAIN here, as a full one would, so that libpq keeps the
 * bytes in its buffer, and PQflush sends those of many statements at once. */
#ifndef NEBULA_PG_HOLD_H
#define NEBULA_PG_HOLD_H

#include <libpq-fe.h>

/* What PQsendPipelineSync of libpq 17 does: queues a Sync on a non-blocking connection, to be
 * written by PQflush. In a program that is not nebula's own it may be written at once. */
int pg_hold_sync(PGconn *conn);

#endif
