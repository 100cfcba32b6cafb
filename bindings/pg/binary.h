/* binary.h: results in the binary format: where they pay, and what their bytes mean.
 *
 * The format is one for all columns of a result, so it is chosen where every column has a reader
 * here and at least one of them is dear to read as text. float4 has none: its text is the shortest
 * decimal, which the bytes do not tell. Any thread. */
#ifndef NEBULA_PG_BINARY_H
#define NEBULA_PG_BINARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <libpq-fe.h>
#include "pg/text_types.h"

enum { PG_TIMESTAMP_MOST = 48 };

/* Whether results with these columns are better fetched in binary; never, where one is of the types
 * that somebody reads from its text. */
bool pg_binary_pays(const PGresult *result, const pg_text_types *as_text);

/* An integer of 1 to 8 bytes in network order, with its sign. */
int64_t pg_binary_integer(const char *data, size_t length);

/* Writes microseconds since 2000 as "2026-11-22T17:58:03.120000", or "infinity"; `zone` adds Z.
 * Returns the length, without a terminator. */
size_t pg_binary_timestamp(int64_t microseconds, bool zone, char out[PG_TIMESTAMP_MOST]);

#endif
