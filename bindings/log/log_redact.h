/* log_redact.h: what of a text must not be logged. Any thread. */
#ifndef NEBULA_LOG_REDACT_H
#define NEBULA_LOG_REDACT_H

#include <stdbool.h>
#include <stddef.h>
#include "json/json_buffer.h"

/* What stands in the place of a secret. */
#define LOG_REDACTED "***"

/* True for the name of a field that holds a secret: one with password, secret, token, signature,
 * credential, authorization or cookie in it, in any case, or one that ends in "_key" and is not
 * known to name something public (unique_key). */
bool log_name_is_secret(const char *name, size_t length);

/* Appends the text without its secrets: the password of user:password@ in a URL, the value after a
 * secret name and '=' (conninfo strings, query strings), what follows "Authorization:". False on a
 * lack of memory. */
bool log_append_redacted(json_buffer *out, const char *text, size_t length);

#endif
