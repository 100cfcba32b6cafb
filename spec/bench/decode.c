/* decode.c: what reading a result costs at least: libpq's whole result, each value looked at,
 * nothing made of it. Prints the seconds of each round. See spec/bench/pg_decode.lua.
 *
 *   decode URL SQL ROUNDS */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <libpq-fe.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(PGconn *conn) {
  fprintf(stderr, "decode: %s", PQerrorMessage(conn));
  exit(1);
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  PGconn *conn = PQconnectdb(argv[1]);
  if (PQstatus(conn) != CONNECTION_OK) fail(conn);
  volatile unsigned long seen = 0;
  for (int round = atoi(argv[3]); round > 0; round--) {
    double began = now();
    PGresult *result = PQexec(conn, argv[2]);
    if (PQresultStatus(result) != PGRES_TUPLES_OK) fail(conn);
    int rows = PQntuples(result), columns = PQnfields(result);
    unsigned long sum = 0;
    for (int i = 0; i < rows; i++)
      for (int k = 0; k < columns; k++)
        if (!PQgetisnull(result, i, k))
          sum +=
              (unsigned long)PQgetlength(result, i, k) + (unsigned char)*PQgetvalue(result, i, k);
    seen = seen + sum;
    PQclear(result);
    printf("%.6f\n", now() - began);
  }
  PQfinish(conn);
  return 0;
}
