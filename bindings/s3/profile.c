/* profile.c: see profile.h. */
#include "s3/profile.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static char *trim(char *text) {
  while (isspace((unsigned char)*text))
    text++;
  char *end = text + strlen(text);
  while (end > text && isspace((unsigned char)end[-1]))
    end--;
  *end = '\0';
  return text;
}

/* "[name]" or "[profile name]" */
static bool names_profile(char *line, const char *profile) {
  char *close = strchr(line, ']');
  if (close == NULL) return false;
  *close = '\0';
  char *name = trim(line + 1);
  if (strncmp(name, "profile", 7) == 0 && isspace((unsigned char)name[7])) name = trim(name + 7);
  return strcmp(name, profile) == 0;
}

static bool replace(char **field, const char *value) {
  s3_secret_free(field);
  *field = strdup(value);
  return *field != NULL;
}

static bool take_line(char *line, profile_entry *out) {
  const struct {
    const char *name;
    char **field;
  } FIELDS[] = {{"aws_access_key_id", &out->keys.access_key_id},
                {"aws_secret_access_key", &out->keys.secret_access_key},
                {"aws_session_token", &out->keys.session_token},
                {"role_arn", &out->role},
                {"web_identity_token_file", &out->token_file},
                {"role_session_name", &out->session}};
  char *equals = strchr(line, '=');
  if (equals == NULL) return true;
  *equals = '\0';
  const char *name = trim(line), *value = trim(equals + 1);
  for (size_t i = 0; i < sizeof FIELDS / sizeof FIELDS[0]; i++) {
    if (strcasecmp(name, FIELDS[i].name) == 0) return replace(FIELDS[i].field, value);
  }
  return true;
}

void profile_entry_free(profile_entry *self) {
  s3_identity_free(&self->keys);
  free(self->role);
  free(self->token_file);
  free(self->session);
  *self = (profile_entry){0};
}

profile_status profile_read(const char *path, const char *profile, profile_entry *out) {
  FILE *file = fopen(path, "re");
  if (file == NULL)
    return errno == ENOENT || errno == ENOTDIR ? PROFILE_ABSENT : PROFILE_UNREADABLE;
  char *buffer = NULL;
  size_t capacity = 0;
  bool inside = false, well = true;
  while (well && getline(&buffer, &capacity, file) >= 0) {
    char *line = trim(buffer);
    if (*line == '#' || *line == ';' || *line == '\0') continue;
    if (*line == '[') {
      inside = names_profile(line, profile);
    } else if (inside) {
      well = take_line(line, out);
    }
  }
  bool broken = ferror(file) != 0;
  if (buffer != NULL) explicit_bzero(buffer, capacity);
  free(buffer);
  fclose(file);
  if (!well) return PROFILE_NO_MEMORY;
  if (broken) return PROFILE_UNREADABLE;
  bool keys = out->keys.access_key_id != NULL && out->keys.secret_access_key != NULL;
  if (!keys) s3_identity_free(&out->keys);
  bool role = out->role != NULL && out->token_file != NULL;
  return keys || role ? PROFILE_FOUND : PROFILE_ABSENT;
}
