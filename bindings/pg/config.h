/* config.h: where a pool connects to: libpq's connection parameters, with what we pin.
 *
 * libpq reads the URL or key=value text, PG* variables, service and password files. We add the
 * session's settings that decoding relies on, and addresses resolved ahead of time, because
 * PQconnectStart would look names up on the loop's thread. */
#ifndef NEBULA_PG_CONFIG_H
#define NEBULA_PG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

typedef struct pg_config pg_config;

enum { PG_CONFIG_MESSAGE = 256 };

/* Parses a URL or key=value text (NULL: libpq's own defaults). NULL where it is malformed or memory
 * ran out; message then says why, without the text, which may hold a password. */
pg_config *pg_config_parse(const char *url, bool pin_by_options, bool read_only,
                           char message[PG_CONFIG_MESSAGE]);
void pg_config_free(pg_config *self);

/* Sets a parameter, over what the URL says. False on a lack of memory. */
bool pg_config_set(pg_config *self, const char *keyword, const char *value);

/* The value in force before libpq's built-in defaults, or NULL. */
const char *pg_config_get(const pg_config *self, const char *keyword);

/* sslmode=verify-full is in force because the server is on another machine and nobody said
 * otherwise. */
bool pg_config_verifies_by_default(const pg_config *self);

/* "nebula on db.example:5432", for messages. Never a password. */
const char *pg_config_place(const pg_config *self);

/* The hosts as libpq wants them, one after the other; a host that is a name needs an address. */
size_t pg_config_hosts(const pg_config *self);
const char *pg_config_host(const pg_config *self, size_t i);
const char *pg_config_port(const pg_config *self, size_t i);
bool pg_config_host_is_name(const pg_config *self, size_t i);

/* The number of a host by what libpq says of the connection; 0 where it is none of ours. */
size_t pg_config_find_host(const pg_config *self, const char *host, const char *port);

/* Keyword and value arrays for PQconnectStartParams. addresses[i] are what host i resolved to, or
 * NULL for a host that needs none; `first` is the host to be tried first. Valid until
 * pg_config_params_free. */
typedef struct pg_config_params {
  const char **keywords, **values;
  char *host, *hostaddr, *port;
} pg_config_params;

bool pg_config_params_make(const pg_config *self, struct addrinfo *const addresses[], size_t first,
                           pg_config_params *out);
void pg_config_params_free(pg_config_params *self);

#endif
