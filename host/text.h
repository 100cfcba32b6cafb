/* text.h: how many columns of a terminal UTF-8 text takes: plain C over the C library's own tables.
 *
 * A `text_locale` is a UTF-8 character type of its own, so that widths do not depend on LANG. */
#ifndef NEBULA_HOST_TEXT_H
#define NEBULA_HOST_TEXT_H

#include <locale.h>
#include <stdbool.h>
#include <stddef.h>

typedef struct text_locale {
  locale_t types;
} text_locale;

/* False where the C library has no UTF-8 at all. */
bool text_open(text_locale *self);
void text_close(text_locale *self);

/* Columns the text takes; a byte that belongs to no character counts one. */
size_t text_width(const text_locale *self, const char *text, size_t length);

/* How many of the text's bytes fit into `width` columns, whole characters only; *used: the columns
 * they take. */
size_t text_fit(const text_locale *self, const char *text, size_t length, size_t width,
                size_t *used);

/* True where nothing in it moves the cursor or is a terminal's command. */
bool text_is_plain(const char *text, size_t length);

#endif
