/* unnest_insert.c URL ROWS BATCH: the peer of push_jobs: the same rows into workflow_jobs by the
 * same kind of statement, a prepared INSERT from unnest, with nothing between libpq and the loop.
 * Prints rows a second. */
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { COLUMNS = 5, UUID = 37, PAYLOAD = 64 };

static const char SQL[] = "INSERT INTO workflow_jobs (id, workflow_id, execution_id, priority, "
                          "scheduled_at, max_retries, payload) "
                          "SELECT d.id, '6ecd2b0f-6009-5a60-a575-ee6236849e14', d.execution_id, "
                          "d.priority, now(), d.retries, d.payload "
                          "FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::int[], $5::jsonb[]) "
                          "AS d (id, execution_id, priority, retries, payload)";

static void check(bool ok, const char *what) {
  if (ok) return;
  fprintf(stderr, "unnest_insert: %s\n", what);
  exit(1);
}

static double seconds(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

/* A UUIDv7 (RFC 9562): milliseconds, a counter, random bits. */
static size_t put_uuid(char *to) {
  static unsigned counter;
  static unsigned char pool[4096];
  static size_t used = sizeof pool;
  if (used + 8 > sizeof pool) {
    check(getrandom(pool, sizeof pool, 0) == (ssize_t)sizeof pool, "no random bytes");
    used = 0;
  }
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  unsigned long long ms =
      (unsigned long long)at.tv_sec * 1000 + (unsigned long long)at.tv_nsec / 1000000;
  unsigned long long low;
  memcpy(&low, pool + used, 8);
  used += 8;
  counter = (counter + 1) & 0xfff;
  return (size_t)snprintf(to, UUID, "%08llx-%04llx-7%03x-%04llx-%012llx", ms >> 16, ms & 0xffff,
                          counter, 0x8000 | (low & 0x3fff), low >> 16);
}

/* Writes the arrays of one batch. */
static void fill(char *arrays[COLUMNS], long first, long count) {
  char *at[COLUMNS];
  for (int c = 0; c < COLUMNS; c++) {
    at[c] = arrays[c];
    *at[c]++ = '{';
  }
  for (long i = 0; i < count; i++) {
    if (i > 0)
      for (int c = 0; c < COLUMNS; c++)
        *at[c]++ = ',';
    at[0] += put_uuid(at[0]);
    at[1] += put_uuid(at[1]);
    *at[2]++ = '0';
    *at[3]++ = '3';
    at[4] += sprintf(at[4], "\"{\\\"handler\\\":\\\"noop\\\",\\\"n\\\":%ld}\"", first + i);
  }
  for (int c = 0; c < COLUMNS; c++)
    strcpy(at[c], "}");
}

int main(int argc, char **argv) {
  check(argc == 4, "wants URL ROWS BATCH");
  long rows = atol(argv[2]), batch = atol(argv[3]);
  PGconn *conn = PQconnectdb(argv[1]);
  check(PQstatus(conn) == CONNECTION_OK, PQerrorMessage(conn));
  PGresult *prepared = PQprepare(conn, "push", SQL, 0, NULL);
  check(PQresultStatus(prepared) == PGRES_COMMAND_OK, PQerrorMessage(conn));
  PQclear(prepared);

  char *arrays[COLUMNS];
  for (int c = 0; c < COLUMNS; c++) {
    arrays[c] = malloc((size_t)batch * PAYLOAD + 3);
    check(arrays[c] != NULL, "out of memory");
  }
  double began = seconds();
  for (long done = 0; done < rows; done += batch) {
    fill(arrays, done, batch);
    PGresult *result =
        PQexecPrepared(conn, "push", COLUMNS, (const char *const *)arrays, NULL, NULL, 0);
    check(PQresultStatus(result) == PGRES_COMMAND_OK, PQerrorMessage(conn));
    PQclear(result);
  }
  printf("%.0f\n", (double)rows / (seconds() - began));
  for (int c = 0; c < COLUMNS; c++)
    free(arrays[c]);
  PQfinish(conn);
  return 0;
}
