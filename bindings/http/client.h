/* client.h: libcurl's multi interface in the one loop.
 *
 * A client owns the multi handle with its pool of kept-alive connections; every transfer of a Lua
 * state goes through one. libcurl tells which sockets and which timeout it waits for, libuv does
 * the waiting. libcurl resolves names on threads of its own. Everything runs on the loop's thread.
 */
#ifndef NEBULA_HTTP_CLIENT_H
#define NEBULA_HTTP_CLIENT_H

#include "async/loop.h"

typedef struct http_client http_client;

/* Initialises libcurl at the first call of the process. NULL on a lack of memory. */
http_client *http_client_new(loop *on);

/* Ends every transfer in flight as HTTP_CANCELLED (their callbacks run now), closes the connections
 * and frees the client once libuv has let go of its handles. Nothing may be started afterwards. */
void http_client_close(http_client *self);

loop *http_client_loop(http_client *self);

#endif
