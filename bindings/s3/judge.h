/* judge.h: what an answer of S3, or the lack of one, means: its code, its kind, its remedy. */
#ifndef NEBULA_S3_JUDGE_H
#define NEBULA_S3_JUDGE_H

#include "http/transfer.h"
#include "s3/client.h"
#include "s3/failure.h"

typedef struct s3_verdict {
  s3_failure failure; /* kind S3_WELL: the answer is good */
  bool again;         /* another attempt may succeed */
  bool untouched;     /* the server has certainly not acted on this request */
  char region[64];    /* where the bucket is, if the server told another one; else "" */
  bool skewed;        /* the server refused our clock; below is how far it is ahead */
  int64_t skew;
  bool expired; /* the credentials' time is over */
} s3_verdict;

typedef struct s3_judged {
  const s3_client *client;
  const char *what, *key; /* "get"; NULL: the bucket */
  size_t key_length;
  bool has_body;    /* false for HEAD, whose errors have no text */
  bool check_body;  /* a 200 may carry an <Error> */
  bool encrypts;    /* the server is to encrypt what it stores */
  const char *body; /* of an error, or of a good answer with check_body */
  size_t body_length;
  int64_t sent_at; /* seconds since 1970, as the request was signed */
} s3_judged;

void s3_judge(const s3_judged *request, const http_response *response, s3_verdict *out);

#endif
