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
  free(*field);
  *field = strdup(value);
  return *field != NULL;
}

static bool take_line(char *line, s3_identity *out) {
  char *equals = strchr(line, '=');
  if (equals == NULL) return true;
  *equals = '\0';
  const char *name = trim(line), *value = trim(equals + 1);
  if (strcasecmp(name, "aws_access_key_id") == 0) return replace(&out->access_key_id, value);
  if (strcasecmp(name, "aws_secret_access_key") == 0)
    return replace(&out->secret_access_key, value);
  if (strcasecmp(name, "aws_session_token") == 0) return replace(&out->session_token, value);
  return true;
}

profile_status profile_read(const char *path, const char *profile, s3_identity *out) {
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
  return out->access_key_id != NULL && out->secret_access_key != NULL ? PROFILE_FOUND
                                                                      : PROFILE_ABSENT;
}
