/* hold.c: a socket that seems to be full. */
#include "pg/hold.h"

#ifdef LIBPQ_HAS_SEND_PIPELINE_SYNC

int pg_hold_sync(PGconn *conn) {
  return PQsendPipelineSync(conn);
}

#else

#include <errno.h>
#include <stdbool.h>
#include <sys/socket.h>

static _Thread_local bool holding;

int pg_hold_sync(PGconn *conn) {
  holding = true;
  int queued = PQpipelineSync(conn);
  holding = false;
  return queued;
}

/* The program's own send and recv stand before libc's in the eyes of every library, as its malloc
 * does. libpq meets a full socket with a look at what there is to read, which must not be taken
 * away from the loop's poll. */
#define PROGRAM_WIDE __attribute__((visibility("default")))

PROGRAM_WIDE ssize_t send(int socket, const void *data, size_t length, int flags) {
  if (!holding) return sendto(socket, data, length, flags, NULL, 0);
  errno = EAGAIN;
  return -1;
}

PROGRAM_WIDE ssize_t recv(int socket, void *data, size_t length, int flags) {
  if (!holding) return recvfrom(socket, data, length, flags, NULL, NULL);
  errno = EAGAIN;
  return -1;
}

#endif
