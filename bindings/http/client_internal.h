/* client_internal.h: what client.c and transfer.c share; no one else includes it. */
#ifndef NEBULA_HTTP_CLIENT_INTERNAL_H
#define NEBULA_HTTP_CLIENT_INTERNAL_H

#include <curl/curl.h>
#include "http/client.h"
#include "http/transfer.h"

enum { HTTP_SPARE_HANDLES = 32 };

struct http_client {
  loop *on;
  CURLM *multi;
  uv_timer_t timer;
  loop_deferred deferred;          /* resumes and removals asked for from inside of libcurl */
  http_transfer *first;            /* every transfer of this client, in flight or done */
  CURL *spare[HTTP_SPARE_HANDLES]; /* easy handles kept for reuse */
  int spares;
  int inside; /* depth of calls into libcurl: its callbacks may not call it back */
  bool closing;
};

struct http_transfer {
  http_client *client;
  http_transfer *previous, *next; /* in the client's list */
  CURL *easy;                     /* NULL once done */
  struct curl_slist *lines;
  http_request request;
  http_response response;
  char *where; /* "GET https://host/path", without query or password: for messages */
  char curl_message[CURL_ERROR_SIZE];
  uint64_t started_at, sent_at; /* uv_hrtime; when the last byte of a body went out, 0 before */
  loop_timer *first_byte;       /* looks whether one has come in time */
  size_t received;              /* bytes of the answer's body taken so far */
  bool answered;                /* a status line has come */
  bool finished;                /* on_done ran, or is about to */
  bool unwatched;               /* there was no memory for watching its socket: it fails */
  bool dropped;                 /* freed by its owner from inside of libcurl; removed right after */
  bool resume;                  /* a resume was asked for from inside of libcurl */
  bool aborted, too_large, no_memory, late;
};

/* The transfer ended with this code: fills the response and calls on_done. */
void http_transfer_finish(http_transfer *self, CURLcode code);

/* Unlinks and frees a transfer whose owner has dropped it. */
void http_transfer_destroy(http_transfer *self);

/* Gives the easy handle back for reuse. Never from inside of libcurl. */
void http_client_recycle(http_client *self, CURL *easy);

#endif
