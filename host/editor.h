/* editor.h: line editing on a terminal, in the loop: native libedit in its unbuffered mode.
 *
 * The terminal is opened anew (/dev/tty): polling descriptor 0 would make standard output
 * non-blocking, and output would be lost. Between two reads the terminal is in its normal mode.
 * Everything runs on the loop's thread; one editor a process, because libedit keeps the terminal.
 */
#ifndef NEBULA_HOST_EDITOR_H
#define NEBULA_HOST_EDITOR_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

typedef struct editor editor;

typedef enum editor_event {
  EDITOR_LINE,     /* Enter: the text without its newline */
  EDITOR_COMPLETE, /* Tab: the line so far; editor_resume goes on */
  EDITOR_END,      /* Ctrl-D on an empty line, or the terminal is gone */
} editor_event;

/* Called once for each editor_read or editor_resume. */
typedef void editor_fn(void *data, editor_event event);

/* NULL and *problem where there is no terminal. */
editor *editor_open(uv_loop_t *loop, editor_fn *happened, void *data, const char **problem);

/* Gives the terminal back; no event comes afterwards. Frees itself from the loop. */
void editor_close(editor *self);

/* Shows the prompt and reads a line. */
void editor_read(editor *self, const char *prompt);

/* Goes on reading the line after EDITOR_COMPLETE. */
void editor_resume(editor *self);

/* Ends a read without an event: the line is dropped. */
void editor_stop(editor *self);

bool editor_reading(const editor *self);

/* The line, and the cursor as a byte offset. Valid until the next call. */
const char *editor_line(editor *self, size_t *length, size_t *cursor);

/* Inserts text at the cursor. */
void editor_insert(editor *self, const char *text);

/* Prints above the line that is being edited, which is drawn again below. */
void editor_above(editor *self, const char *text, size_t length);

/* The terminal has another size. */
void editor_resize(editor *self);

void editor_history_add(editor *self, const char *line);
bool editor_history_load(editor *self, const char *path);
bool editor_history_save(editor *self, const char *path);

#endif
