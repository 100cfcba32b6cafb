/* row_lock.c: what PostgreSQL itself gives: the worker's protocol (rows locked while jobs run, one
 * UPDATE for the batch, its COMMIT AND CHAIN fused with the next claim) in C over libpq, a thread a
 * connection, with no job to run. `twice` is the protocol of claim_jobs and complete_jobs instead:
 * one UPDATE to running, another to completed, each its own transaction. Prints jobs, wall seconds
 * and CPU seconds. See spec/bench/queue.lua and spec/bench/queue_leases.lua.
 *
 *   row_lock URL CONNECTIONS BATCH keep|delete|twice */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <libpq-fe.h>

enum { KEY_ROOM = 40 }; /* of a ctid or an id in an array */

static const char CLAIM[] = "SELECT ctid, id, payload FROM workflow_jobs WHERE status = 'pending' "
                            "AND scheduled_at <= now() ORDER BY priority DESC, scheduled_at "
                            "LIMIT $1 FOR UPDATE SKIP LOCKED";
static const char KEEP[] = "UPDATE workflow_jobs SET status = 'completed', finished_at = "
                           "clock_timestamp() WHERE ctid = ANY ($1::tid[])";
static const char DELETE[] = "DELETE FROM workflow_jobs WHERE ctid = ANY ($1::tid[])";

static const char LEASE[] =
    "WITH picked AS MATERIALIZED (SELECT ctid AS at FROM workflow_jobs WHERE status = 'pending' "
    "AND scheduled_at <= now() ORDER BY priority DESC, scheduled_at LIMIT $1 FOR UPDATE SKIP "
    "LOCKED) "
    "UPDATE workflow_jobs SET status = 'running', locked_at = now(), lease_until = now() + '30 s', "
    "token = token + 1 WHERE ctid = ANY (ARRAY (SELECT at FROM picked)) RETURNING id, payload";
static const char END_LEASE[] =
    "UPDATE workflow_jobs SET status = 'completed', lease_until = NULL, finished_at = "
    "clock_timestamp() WHERE id = ANY ($1::uuid[]) AND status = 'running'";

typedef struct client {
  const char *url, *batch, *how;
  long jobs;
} client;

static void fail(PGconn *conn) {
  fprintf(stderr, "row_lock: %s", PQerrorMessage(conn));
  exit(1);
}

static void plain(PGconn *conn, const char *sql) {
  PGresult *result = PQexec(conn, sql);
  if (PQresultStatus(result) != PGRES_COMMAND_OK) fail(conn);
  PQclear(result);
}

static void prepare(PGconn *conn, const char *name, const char *sql) {
  PGresult *result = PQprepare(conn, name, sql, 1, NULL);
  if (PQresultStatus(result) != PGRES_COMMAND_OK) fail(conn);
  PQclear(result);
}

static void send(PGconn *conn, const char *name, const char *parameter) {
  int sent = PQsendQueryPrepared(conn, name, parameter != NULL, &parameter, NULL, NULL, 0);
  if (!sent) fail(conn);
}

/* Reads one statement's result in the pipeline. */
static PGresult *read_result(PGconn *conn) {
  PGresult *result = PQgetResult(conn);
  ExecStatusType status = PQresultStatus(result);
  if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) fail(conn);
  PGresult *end = PQgetResult(conn);
  PQclear(end);
  return result;
}

/* The array of the rows' first column, ctids or ids, as text. */
static void write_keys(char *out, const PGresult *rows) {
  char *at = out;
  for (int i = 0; i < PQntuples(rows); i++)
    at += sprintf(at, "%s\"%s\"", i == 0 ? "{" : ",", PQgetvalue(rows, i, 0));
  strcpy(at, "}");
}

static void exchange(PGconn *conn, client *self, char *keys, PGresult **rows) {
  bool finish = *rows != NULL;
  if (finish) {
    write_keys(keys, *rows);
    self->jobs += PQntuples(*rows);
    PQclear(*rows);
    send(conn, "finish", keys);
  }
  send(conn, finish ? "chain" : "begin", NULL);
  send(conn, "claim", self->batch);
  if (!PQpipelineSync(conn)) fail(conn);
  for (int i = finish ? 2 : 1; i > 0; i--)
    PQclear(read_result(conn));
  *rows = read_result(conn);
  PQclear(PQgetResult(conn)); /* the Sync's own */
}

/* The next rows under row locks; the ones before are finished in the same round trip. */
static void run_fused(PGconn *conn, client *self, char *keys) {
  prepare(conn, "claim", CLAIM);
  prepare(conn, "finish", self->how[0] == 'd' ? DELETE : KEEP);
  prepare(conn, "begin", "BEGIN");
  prepare(conn, "chain", "COMMIT AND CHAIN");
  if (!PQenterPipelineMode(conn)) fail(conn);
  PGresult *rows = NULL;
  do
    exchange(conn, self, keys, &rows);
  while (PQntuples(rows) > 0);
  PQclear(rows);
}

static PGresult *execute(PGconn *conn, const char *name, const char *parameter) {
  PGresult *result = PQexecPrepared(conn, name, 1, &parameter, NULL, NULL, 0);
  ExecStatusType status = PQresultStatus(result);
  if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) fail(conn);
  return result;
}

static void run_twice(PGconn *conn, client *self, char *keys) {
  prepare(conn, "claim", LEASE);
  prepare(conn, "finish", END_LEASE);
  int count;
  do {
    PGresult *rows = execute(conn, "claim", self->batch);
    count = PQntuples(rows);
    write_keys(keys, rows);
    PQclear(rows);
    if (count > 0) PQclear(execute(conn, "finish", keys));
    self->jobs += count;
  } while (count > 0);
}

static void *run(void *data) {
  client *self = data;
  PGconn *conn = PQconnectdb(self->url);
  if (PQstatus(conn) != CONNECTION_OK) fail(conn);
  plain(conn, "SET enable_sort = off");
  plain(conn, "SET enable_incremental_sort = off");
  plain(conn, "SET enable_bitmapscan = off");
  plain(conn, "SET enable_seqscan = off");
  char *keys = malloc((size_t)atol(self->batch) * KEY_ROOM + KEY_ROOM);
  if (keys == NULL) exit(1);
  (self->how[0] == 't' ? run_twice : run_fused)(conn, self, keys);
  free(keys);
  PQfinish(conn);
  return NULL;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double seconds(struct timeval t) {
  return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  int count = atoi(argv[2]);
  client *clients = calloc((size_t)count, sizeof *clients);
  pthread_t *threads = calloc((size_t)count, sizeof *threads);
  if (clients == NULL || threads == NULL) return 1;
  double began = now();
  for (int i = 0; i < count; i++) {
    clients[i] = (client){.url = argv[1], .batch = argv[3], .how = argv[4]};
    if (pthread_create(&threads[i], NULL, run, &clients[i]) != 0) return 1;
  }
  long jobs = 0;
  for (int i = 0; i < count; i++) {
    pthread_join(threads[i], NULL);
    jobs += clients[i].jobs;
  }
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  printf("{\"jobs\": %ld, \"seconds\": %.6f, \"cpu\": %.6f, \"rss\": %ld}\n", jobs, now() - began,
         seconds(usage.ru_utime) + seconds(usage.ru_stime), usage.ru_maxrss / 1024);
  free(clients);
  free(threads);
  return 0;
}
