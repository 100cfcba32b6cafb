/* editor.c: libedit's EL_UNBUFFERED mode: el_gets takes one key and returns what the line is now.
 * It says neither that the line is done (its last character is a newline then) nor that it ended,
 * so the keys that end or complete it are functions of ours. */
#include "editor.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>
#include "text.h"

enum { HISTORY_MOST = 5000, KEYS_A_TURN = 4096, ESCAPE_MS = 50, MARK_BYTES = 5 };

#ifdef __SANITIZE_ADDRESS__
/* libedit never frees the names of added functions (its eln.c says so). */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
  return "leak:wcsdup\n";
}
#endif

struct editor {
  EditLine *line;
  History *history;
  FILE *terminal;
  uv_poll_t poll;
  editor_fn *happened;
  void *data;
  char *prompt, *text;
  text_locale types;
  bool dumb;              /* a terminal without commands */
  bool pasting;           /* between the two marks that a terminal puts around what is pasted */
  char ahead[MARK_BYTES]; /* read already, while a mark was looked for */
  size_t ahead_at, ahead_end;
  bool reading, completing, ended, closed;
};

static editor *self_of(EditLine *line) {
  void *data = NULL;
  el_get(line, EL_CLIENTDATA, &data);
  return data;
}

static char *prompt_of(EditLine *line) {
  return self_of(line)->prompt;
}

static unsigned char on_tab(EditLine *line, int key) {
  (void)key;
  self_of(line)->completing = true;
  return CC_NORM;
}

/* Ctrl-D: the end on an empty line, else the character under the cursor goes. */
static unsigned char on_end(EditLine *line, int key) {
  (void)key;
  const LineInfo *info = el_line(line);
  if (info->buffer == info->lastchar) {
    self_of(line)->ended = true;
    return CC_NORM;
  }
  if (info->cursor == info->lastchar) return CC_ERROR;
  el_cursor(line, 1);
  el_deletestr(line, 1);
  return CC_REFRESH;
}

/* A byte of the terminal; false where none comes within ESCAPE_MS. */
static bool read_byte(editor *self, char *out) {
  if (self->ahead_at < self->ahead_end) {
    *out = self->ahead[self->ahead_at++];
    return true;
  }
  struct pollfd ready = {.fd = fileno(self->terminal), .events = POLLIN};
  return poll(&ready, 1, ESCAPE_MS) > 0 && read(ready.fd, out, 1) == 1;
}

/* After an Escape: takes the rest of a mark of pasted text. What is none is read again. */
static bool read_mark(editor *self) {
  static const char begins[] = "[200~", ends[] = "[201~";
  char found[MARK_BYTES];
  size_t length = 0;
  bool begun = true, ended = true;
  while (length < MARK_BYTES && (begun || ended) && read_byte(self, &found[length])) {
    begun = begun && found[length] == begins[length];
    ended = ended && found[length] == ends[length];
    length++;
  }
  if (length == MARK_BYTES && (begun || ended)) {
    self->pasting = begun;
    return true;
  }
  /* Fewer than MARK_BYTES of `ahead` are left where it was read from: they come after these. */
  size_t rest = self->ahead_end - self->ahead_at;
  memmove(self->ahead + length, self->ahead + self->ahead_at, rest);
  memcpy(self->ahead, found, length);
  self->ahead_at = 0;
  self->ahead_end = length + rest;
  return false;
}

/* One character for libedit. A sequence of keys that stops in the middle (Escape alone) must not
 * stop the loop: after ESCAPE_MS it counts as ended, and el_gets returns. What is pasted is text: a
 * tab is a blank, the other keys are left out. */
static int read_character(EditLine *line, wchar_t *out) {
  editor *self = self_of(line);
  mbstate_t state = {0};
  for (;;) {
    char byte;
    if (!read_byte(self, &byte)) return -1;
    if (byte == '\033' && read_mark(self)) continue;
    if (self->pasting && byte == '\t') byte = ' ';
    if (self->pasting && byte == '\n') byte = '\r';
    if (self->pasting && (byte == 0x7f || (byte >= 0 && byte < 0x20 && byte != '\r'))) continue;
    size_t used = mbrtowc(out, &byte, 1, &state);
    if (used == (size_t)-2) continue; // more bytes of it follow
    if (used != (size_t)-1) return 1;
    memset(&state, 0, sizeof state); // a byte that is no character is left out
  }
}

/* Asks the terminal to mark what is pasted, or not to. */
static void mark_pastes(const editor *self, bool on) {
  if (self->dumb) return;
  fputs(on ? "\033[?2004h" : "\033[?2004l", stdout);
  fflush(stdout);
}

static void finish(editor *self, editor_event event) {
  if (event != EDITOR_COMPLETE) {
    el_set(self->line, EL_UNBUFFERED, 0);
    self->reading = false;
  }
  uv_poll_stop(&self->poll);
  self->happened(self->data, event);
}

static bool keys_wait(const editor *self) {
  int count = 0;
  if (self->ahead_at < self->ahead_end) return true;
  return ioctl(fileno(self->terminal), FIONREAD, &count) == 0 && count > 0;
}

static void on_keys(uv_poll_t *poll, int status, int events) {
  (void)events;
  editor *self = poll->data;
  for (int keys = 0; keys < KEYS_A_TURN; keys++) {
    int count = 0;
    const char *text = NULL;
    if (status < 0 || !keys_wait(self)) { // readable without a key: the terminal is gone
      self->ended = true;
    } else {
      text = el_gets(self->line, &count); // -1 is no failure: the line is empty after this key
    }
    if (self->ended) {
      finish(self, EDITOR_END);
      return;
    }
    if (self->completing) {
      self->completing = false;
      finish(self, EDITOR_COMPLETE);
      return;
    }
    if (text != NULL && count > 0 && (text[count - 1] == '\n' || text[count - 1] == '\r')) {
      free(self->text);
      self->text = strndup(text, (size_t)count - 1);
      finish(self, EDITOR_LINE);
      return;
    }
    if (!keys_wait(self)) return;
  }
}

static void poll_closed(uv_handle_t *handle) {
  editor *self = handle->data;
  fclose(self->terminal);
  text_close(&self->types);
  free(self->prompt);
  free(self->text);
  free(self);
}

static bool set_up(editor *self) {
  HistEvent event;
  self->line = el_init("nebula", self->terminal, stdout, stderr);
  self->history = history_init();
  if (self->line == NULL || self->history == NULL) return false;
  history(self->history, &event, H_SETSIZE, HISTORY_MOST);
  history(self->history, &event, H_SETUNIQUE, 1);
  el_set(self->line, EL_CLIENTDATA, self);
  el_set(self->line, EL_SIGNAL, 0);
  el_set(self->line, EL_GETCFN, read_character);
  el_set(self->line, EL_EDITOR, "emacs");
  el_set(self->line, EL_HIST, history, self->history);
  el_set(self->line, EL_PROMPT, prompt_of);
  el_set(self->line, EL_ADDFN, "nebula-complete", "complete the word", on_tab);
  el_set(self->line, EL_ADDFN, "nebula-end", "end, or delete", on_end);
  el_set(self->line, EL_BIND, "^I", "nebula-complete", NULL);
  el_set(self->line, EL_BIND, "^D", "nebula-end", NULL);
  el_set(self->line, EL_BIND, "^R", "em-inc-search-prev", NULL);
  static const char *const keys[][2] = {
      {"\033[1;5C", "em-next-word"},      {"\033[1;5D", "ed-prev-word"},
      {"\033[3~", "ed-delete-next-char"}, {"\033[1~", "ed-move-to-beg"},
      {"\033[H", "ed-move-to-beg"},       {"\033OH", "ed-move-to-beg"},
      {"\033[4~", "ed-move-to-end"},      {"\033[F", "ed-move-to-end"},
      {"\033OF", "ed-move-to-end"},       {"\033[5~", "ed-prev-history"},
      {"\033[6~", "ed-next-history"},     {"\033x", "ed-unassigned"},
      {"\033X", "ed-unassigned"},
  };
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    el_set(self->line, EL_BIND, keys[i][0], keys[i][1], NULL);
  return true;
}

editor *editor_open(uv_loop_t *loop, editor_fn *happened, void *data, const char **problem) {
  editor *self = calloc(1, sizeof *self);
  *problem = "not enough memory";
  if (self == NULL) return NULL;
  self->happened = happened;
  self->data = data;
  self->prompt = strdup("");
  self->terminal = fopen("/dev/tty", "r+e");
  *problem = "this process has no terminal";
  if (self->terminal == NULL) goto failed;
  setlocale(LC_CTYPE, ""); // how many bytes a character has
  if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
  const char *kind = getenv("TERM");
  self->dumb = kind == NULL || *kind == 0 || strcmp(kind, "dumb") == 0;
  *problem = "the terminal cannot be used";
  if (!text_open(&self->types)) goto failed;
  if (!set_up(self)) goto failed;
  if (uv_poll_init(loop, &self->poll, fileno(self->terminal)) < 0) goto failed;
  self->poll.data = self;
  mark_pastes(self, true);
  return self;
failed:
  if (self->line != NULL) el_end(self->line);
  if (self->history != NULL) history_end(self->history);
  if (self->terminal != NULL) fclose(self->terminal);
  text_close(&self->types);
  free(self->prompt);
  free(self);
  return NULL;
}

void editor_close(editor *self) {
  if (self->closed) return;
  self->closed = true;
  editor_stop(self);
  mark_pastes(self, false);
  el_end(self->line);
  history_end(self->history);
  uv_close((uv_handle_t *)&self->poll, poll_closed);
}

void editor_read(editor *self, const char *prompt) {
  char *copy = strdup(prompt);
  if (copy != NULL) {
    free(self->prompt);
    self->prompt = copy;
  }
  self->reading = true;
  fflush(stdout);
  el_set(self->line, EL_UNBUFFERED, 1);
  editor_resume(self);
}

void editor_resume(editor *self) {
  uv_poll_start(&self->poll, UV_READABLE, on_keys);
}

void editor_stop(editor *self) {
  if (!self->reading) return;
  self->reading = false;
  uv_poll_stop(&self->poll);
  el_set(self->line, EL_UNBUFFERED, 0);
}

bool editor_reading(const editor *self) {
  return self->reading;
}

const char *editor_line(editor *self, size_t *length, size_t *cursor) {
  if (!self->reading) {
    *length = *cursor = self->text != NULL ? strlen(self->text) : 0;
    return self->text != NULL ? self->text : "";
  }
  const LineInfo *info = el_line(self->line);
  *length = (size_t)(info->lastchar - info->buffer);
  *cursor = (size_t)(info->cursor - info->buffer);
  return info->buffer;
}

/* Takes the prompt and the line away, which may go over several rows of the terminal. */
static void wipe(editor *self) {
  struct winsize size = {0};
  ioctl(fileno(self->terminal), TIOCGWINSZ, &size);
  if (self->dumb || size.ws_col == 0) {
    fputc('\n', stdout);
    return;
  }
  const LineInfo *info = el_line(self->line);
  size_t columns = text_width(&self->types, self->prompt, strlen(self->prompt)) +
                   text_width(&self->types, info->buffer, (size_t)(info->cursor - info->buffer));
  if (columns >= size.ws_col) fprintf(stdout, "\033[%zuA", columns / size.ws_col);
  fputs("\r\033[J", stdout);
}

void editor_insert(editor *self, const char *text) {
  wipe(self); // the refresh below begins where the cursor is
  el_insertstr(self->line, text);
  el_set(self->line, EL_REFRESH);
}

void editor_above(editor *self, const char *text, size_t length) {
  if (self->reading) wipe(self);
  fwrite(text, 1, length, stdout);
  fflush(stdout);
  if (!self->reading) return;
  if (length > 0 && text[length - 1] != '\n') fputc('\n', stdout);
  fflush(stdout);
  el_set(self->line, EL_REFRESH);
}

void editor_resize(editor *self) {
  el_resize(self->line);
}

void editor_history_add(editor *self, const char *line) {
  HistEvent event;
  history(self->history, &event, H_ENTER, line);
}

bool editor_history_load(editor *self, const char *path) {
  HistEvent event;
  return history(self->history, &event, H_LOAD, path) >= 0;
}

bool editor_history_save(editor *self, const char *path) {
  HistEvent event;
  return history(self->history, &event, H_SAVE, path) >= 0;
}
