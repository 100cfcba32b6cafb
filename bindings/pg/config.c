/* config.c: libpq's connection parameters, as we pass them on. */
#include "pg/config.h"
#include <libpq-fe.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What decoding and cancelling rely on; given in the startup packet, so that a RESET returns here.
 */
#define PINS                                                                                       \
  "-c DateStyle=ISO,YMD -c TimeZone=UTC -c IntervalStyle=postgres -c bytea_output=hex "            \
  "-c extra_float_digits=1"

#define READ_ONLY " -c default_transaction_read_only=on"

typedef struct pair {
  char *keyword, *value;
} pair;

struct pg_config {
  pair *pairs;
  size_t count, room;
  char **hosts, **ports, **given; /* given: the addresses that the URL names itself, or "" */
  bool *names;
  size_t nhosts;
  bool verifies; /* TLS is verified because nobody said otherwise */
  char place[128];
};

static const char *find(const pg_config *self, const char *keyword) {
  for (size_t i = 0; i < self->count; i++)
    if (strcmp(self->pairs[i].keyword, keyword) == 0) return self->pairs[i].value;
  return NULL;
}

bool pg_config_set(pg_config *self, const char *keyword, const char *value) {
  char *copy = strdup(value);
  if (copy == NULL) return false;
  for (size_t i = 0; i < self->count; i++) {
    if (strcmp(self->pairs[i].keyword, keyword) != 0) continue;
    free(self->pairs[i].value);
    self->pairs[i].value = copy;
    return true;
  }
  if (self->count == self->room) {
    size_t room = self->room == 0 ? 16 : self->room * 2;
    pair *pairs = realloc(self->pairs, room * sizeof *pairs);
    if (pairs == NULL) {
      free(copy);
      return false;
    }
    self->pairs = pairs;
    self->room = room;
  }
  char *name = strdup(keyword);
  if (name == NULL) {
    free(copy);
    return false;
  }
  self->pairs[self->count++] = (pair){name, copy};
  return true;
}

const char *pg_config_get(const pg_config *self, const char *keyword) {
  return find(self, keyword);
}

const char *pg_config_place(const pg_config *self) {
  return self->place;
}

size_t pg_config_hosts(const pg_config *self) {
  return self->nhosts;
}

const char *pg_config_host(const pg_config *self, size_t i) {
  return self->hosts[i];
}

const char *pg_config_port(const pg_config *self, size_t i) {
  return self->ports[i];
}

bool pg_config_host_is_name(const pg_config *self, size_t i) {
  return self->names[i];
}

void pg_config_free(pg_config *self) {
  if (self == NULL) return;
  for (size_t i = 0; i < self->count; i++) {
    free(self->pairs[i].keyword);
    free(self->pairs[i].value);
  }
  for (size_t i = 0; i < self->nhosts; i++) {
    free(self->hosts[i]);
    free(self->ports[i]);
    free(self->given[i]);
  }
  free(self->hosts);
  free(self->ports);
  free(self->given);
  free(self->names);
  free(self->pairs);
  free(self);
}

/* The i-th piece of a comma-separated list, or a copy of the only one. */
static char *piece(const char *list, size_t i) {
  const char *at = list, *comma;
  if (strchr(list, ',') == NULL) i = 0;
  while (i > 0 && (comma = strchr(at, ',')) != NULL) {
    at = comma + 1;
    i--;
  }
  if (i > 0) return strdup("");
  comma = strchr(at, ',');
  return comma != NULL ? strndup(at, (size_t)(comma - at)) : strdup(at);
}

static bool is_name(const char *host) {
  struct in6_addr address;
  return host[0] != '\0' && host[0] != '/' && host[0] != '@' &&
         uv_inet_pton(AF_INET, host, &address) != 0 && uv_inet_pton(AF_INET6, host, &address) != 0;
}

static bool split_hosts(pg_config *self) {
  const char *hosts = find(self, "host"), *ports = find(self, "port");
  if (hosts == NULL) hosts = "";
  if (ports == NULL) ports = "";
  size_t n = 1;
  for (const char *p = hosts; *p != '\0'; p++)
    n += *p == ',';
  self->hosts = calloc(n, sizeof *self->hosts);
  self->ports = calloc(n, sizeof *self->ports);
  self->given = calloc(n, sizeof *self->given);
  self->names = calloc(n, sizeof *self->names);
  if (self->hosts == NULL || self->ports == NULL || self->given == NULL || self->names == NULL)
    return false;
  const char *given = find(self, "hostaddr");
  for (size_t i = 0; i < n; i++) {
    self->nhosts = i + 1;
    self->hosts[i] = piece(hosts, i);
    self->ports[i] = piece(ports, i);
    self->given[i] = piece(given != NULL ? given : "", i);
    if (self->hosts[i] == NULL || self->ports[i] == NULL || self->given[i] == NULL) return false;
    self->names[i] = (given == NULL || *given == '\0') && is_name(self->hosts[i]);
  }
  const char *database = find(self, "dbname"), *user = find(self, "user");
  snprintf(self->place, sizeof self->place, "%.40s on %.60s%s%.10s",
           database != NULL ? database
           : user != NULL   ? user
                            : "postgres",
           *hosts != '\0' ? hosts : "the local socket", *ports != '\0' ? ":" : "", ports);
  return true;
}

static bool is_loopback(const char *host) {
  unsigned char address[16];
  if (uv_inet_pton(AF_INET, host, address) == 0) return address[0] == 127;
  static const unsigned char ONE[16] = {[15] = 1};
  return uv_inet_pton(AF_INET6, host, address) == 0 && memcmp(address, ONE, sizeof ONE) == 0;
}

/* What the host is called decides, since that is what a certificate would be held against. */
static bool is_local(const pg_config *self, size_t i) {
  const char *host = self->hosts[i][0] != '\0' ? self->hosts[i] : self->given[i];
  return host[0] == '\0' || host[0] == '/' || host[0] == '@' || strcmp(host, "localhost") == 0 ||
         is_loopback(host);
}

/* The system's certificates, where libpq would find none of its own; NULL where it would. */
static const char *system_certificates(void) {
  char own[512];
  const char *home = getenv("HOME"), *given = getenv("SSL_CERT_FILE");
  snprintf(own, sizeof own, "%s/.postgresql/root.crt", home != NULL ? home : "");
  if (access(own, R_OK) == 0) return NULL;
  if (given != NULL) return given;
  static const char *const PLACES[] = {"/etc/ssl/certs/ca-certificates.crt",
                                       "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"};
  for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++)
    if (access(PLACES[i], R_OK) == 0) return PLACES[i];
  return NULL;
}

static bool is_all_local(const pg_config *self) {
  bool local = true;
  for (size_t i = 0; i < self->nhosts; i++)
    local = local && is_local(self, i);
  return local;
}

/* A service file has its own mind, which what is set here would overrule. */
static bool has_service(const pg_config *self) {
  return find(self, "service") != NULL || getenv("PGSERVICE") != NULL;
}

/* Off this machine, a server that is gone is found out in a minute of silence, where the system
 * takes two hours. What was sent and never taken ends the connection only after five: a healthy
 * server takes nothing while it waits for a lock in the middle of a COPY. */
static bool pin_keepalive(pg_config *self) {
  static const struct {
    const char *keyword, *value;
  } DEFAULTS[] = {{"keepalives_idle", "30"},
                  {"keepalives_interval", "10"},
                  {"keepalives_count", "3"},
                  {"tcp_user_timeout", "300000"}};
  if (is_all_local(self) || has_service(self)) return true;
  for (size_t i = 0; i < sizeof DEFAULTS / sizeof *DEFAULTS; i++)
    if (find(self, DEFAULTS[i].keyword) == NULL &&
        !pg_config_set(self, DEFAULTS[i].keyword, DEFAULTS[i].value))
      return false;
  return true;
}

/* Off this machine, the server has to prove who it is, unless the URL, the environment or a service
 * file has its own mind. */
static bool pin_tls(pg_config *self) {
  bool decided = find(self, "sslmode") != NULL || getenv("PGSSLMODE") != NULL || has_service(self);
  if (decided || is_all_local(self)) return true;
  self->verifies = true;
  const char *certificates = system_certificates();
  bool given = find(self, "sslrootcert") != NULL || getenv("PGSSLROOTCERT") != NULL;
  if (!given && certificates != NULL && !pg_config_set(self, "sslrootcert", certificates))
    return false;
  return pg_config_set(self, "sslmode", "verify-full");
}

bool pg_config_verifies_by_default(const pg_config *self) {
  return self->verifies;
}

/* Keeps the parameters of a list that are set, unless they are known already; of libpq's defaults
 * those alone that say where to connect. */
static bool take(pg_config *self, const PQconninfoOption *list, bool defaults) {
  for (const PQconninfoOption *o = list; o->keyword != NULL; o++) {
    if (o->val == NULL || *o->val == '\0' || find(self, o->keyword) != NULL) continue;
    bool address = strcmp(o->keyword, "host") == 0 || strcmp(o->keyword, "hostaddr") == 0 ||
                   strcmp(o->keyword, "port") == 0 || strcmp(o->keyword, "dbname") == 0 ||
                   strcmp(o->keyword, "user") == 0 || strcmp(o->keyword, "options") == 0;
    if (defaults && !address) continue;
    if (!pg_config_set(self, o->keyword, o->val)) return false;
  }
  return true;
}

/* Of several hosts a pool that writes wants the one that takes writes. A session that is read-only
 * by our own wish would never count as that: it wants the server's role. */
static bool pin_role(pg_config *self, bool read_only) {
  const char *wanted = find(self, "target_session_attrs"), *hosts = find(self, "host");
  if (read_only && wanted != NULL && strcmp(wanted, "read-write") == 0)
    return pg_config_set(self, "target_session_attrs", "primary");
  if (read_only || wanted != NULL || hosts == NULL || strchr(hosts, ',') == NULL) return true;
  return pg_config_set(self, "target_session_attrs", "read-write");
}

static bool pin(pg_config *self, bool by_options, bool read_only) {
  if (!pg_config_set(self, "client_encoding", "UTF8")) return false;
  if (find(self, "application_name") == NULL && getenv("PGAPPNAME") == NULL &&
      !pg_config_set(self, "application_name", "nebula"))
    return false;
  if (!pin_role(self, read_only)) return false;
  if (!by_options) return true;
  const char *given = find(self, "options");
  char *options = malloc((given != NULL ? strlen(given) : 0) + sizeof PINS + sizeof READ_ONLY + 2);
  if (options == NULL) return false;
  sprintf(options, "%s%s%s%s", given != NULL ? given : "", given != NULL ? " " : "", PINS,
          read_only ? READ_ONLY : "");
  bool ok = pg_config_set(self, "options", options);
  free(options);
  return ok;
}

/* libpq's complaint up to the first quotation that is longer than a punctuation mark and could hold
 * the password. */
static void explain(char message[PG_CONFIG_MESSAGE], const char *complaint) {
  if (complaint == NULL) complaint = "";
  size_t n = strcspn(complaint, "\"\n");
  while (complaint[n] == '"' && complaint[n + 1] != '\0' && complaint[n + 2] == '"')
    n += 3 + strcspn(complaint + n + 3, "\"\n");
  snprintf(message, PG_CONFIG_MESSAGE,
           "the connection URL is malformed%s%.*s%s; it looks like "
           "postgresql://user@host:5432/database",
           n > 0 ? ": " : "", (int)(n < 100 ? n : 100), complaint,
           complaint[n] == '"' ? "\"...\"" : "");
}

pg_config *pg_config_parse(const char *url, bool pin_by_options, bool read_only,
                           char message[PG_CONFIG_MESSAGE]) {
  char *complaint = NULL;
  PQconninfoOption *given = NULL, *defaults = NULL;
  pg_config *self = calloc(1, sizeof *self);
  bool ok = self != NULL;
  snprintf(message, PG_CONFIG_MESSAGE, "out of memory");
  if (ok && url != NULL) {
    given = PQconninfoParse(url, &complaint);
    if (given == NULL) explain(message, complaint);
    ok = given != NULL && take(self, given, false);
  }
  if (ok) {
    defaults = PQconndefaults();
    ok = defaults != NULL && take(self, defaults, true);
  }
  ok = ok && pin(self, pin_by_options, read_only) && split_hosts(self) && pin_tls(self) &&
       pin_keepalive(self);
  PQfreemem(complaint);
  PQconninfoFree(given);
  PQconninfoFree(defaults);
  if (ok) return self;
  pg_config_free(self);
  return NULL;
}

static bool append(char **list, size_t *length, const char *text, bool first) {
  size_t more = strlen(text);
  char *grown = realloc(*list, *length + more + 2);
  if (grown == NULL) return false;
  *list = grown;
  if (!first) grown[(*length)++] = ',';
  memcpy(grown + *length, text, more + 1);
  *length += more;
  return true;
}

size_t pg_config_find_host(const pg_config *self, const char *host, const char *port) {
  for (size_t i = 0; i < self->nhosts; i++) {
    bool same_port = self->ports[i][0] == '\0' || port == NULL || strcmp(self->ports[i], port) == 0;
    if (host != NULL && same_port && strcmp(self->hosts[i], host) == 0) return i;
  }
  return 0;
}

/* One entry in each of the three lists for every address of every host. */
static bool expand(const pg_config *self, struct addrinfo *const addresses[], size_t first,
                   pg_config_params *out) {
  size_t hosts = 0, addrs = 0, ports = 0;
  bool begun = false;
  for (size_t n = 0; n < self->nhosts; n++) {
    size_t i = (first + n) % self->nhosts;
    const struct addrinfo *at = addresses[i];
    if (at == NULL && self->names[i]) continue; /* it could not be resolved */
    do {
      char text[64];
      snprintf(text, sizeof text, "%s", self->given[i]);
      if (at != NULL &&
          getnameinfo(at->ai_addr, at->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) != 0)
        text[0] = '\0';
      if (!append(&out->host, &hosts, self->hosts[i], !begun) ||
          !append(&out->hostaddr, &addrs, text, !begun) ||
          !append(&out->port, &ports, self->ports[i], !begun))
        return false;
      begun = true;
      at = at != NULL ? at->ai_next : NULL;
    } while (at != NULL);
  }
  return true;
}

bool pg_config_params_make(const pg_config *self, struct addrinfo *const addresses[], size_t first,
                           pg_config_params *out) {
  *out = (pg_config_params){0};
  bool resolved = first > 0;
  for (size_t i = 0; i < self->nhosts; i++)
    resolved = resolved || addresses[i] != NULL;
  out->keywords = calloc(self->count + 4, sizeof *out->keywords);
  out->values = calloc(self->count + 4, sizeof *out->values);
  if (out->keywords == NULL || out->values == NULL ||
      (resolved && !expand(self, addresses, first, out))) {
    pg_config_params_free(out);
    return false;
  }
  size_t n = 0;
  for (size_t i = 0; i < self->count; i++) {
    const char *keyword = self->pairs[i].keyword, *value = self->pairs[i].value;
    if (resolved && strcmp(keyword, "host") == 0) value = out->host;
    if (resolved && (strcmp(keyword, "port") == 0 || strcmp(keyword, "hostaddr") == 0)) continue;
    out->keywords[n] = keyword;
    out->values[n++] = value;
  }
  if (resolved) {
    out->keywords[n] = "hostaddr";
    out->values[n++] = out->hostaddr;
    out->keywords[n] = "port";
    out->values[n] = out->port;
  }
  return true;
}

void pg_config_params_free(pg_config_params *self) {
  free(self->keywords);
  free(self->values);
  free(self->host);
  free(self->hostaddr);
  free(self->port);
  *self = (pg_config_params){0};
}
