/* lua_text.c: `nebula.text`: widths of text on a terminal, and rows laid out as aligned columns.
 *
 *   text.width(s) -> columns
 *   text.fit(s, width) -> s, or its beginning with an ellipsis
 *   text.table(rows, names, options, write): see table_write
 *
 * The layout is here because a hundred thousand rows are printed by the cell: it reads each row
 * twice, once for the columns' widths and once to write, and keeps no text but that which `cell`
 * had to make. */
#include "lua_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <lauxlib.h>
#include "base/lua_error.h"
#include "text.h"

#define METATABLE "nebula.text"

enum { ROWS = 1, NAMES, OPTIONS, WRITE, CELL, MADE }; /* stack of text.table */
enum { BUFFER_BYTES = 64 * 1024, NUMBER_BYTES = 32, LEAST_WIDTH = 8, MOST_PADDING = 1000 };

static const text_locale *types_of(lua_State *L) {
  return lua_touserdata(L, lua_upvalueindex(1));
}

static int lua_text_width(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  lua_pushinteger(L, (lua_Integer)text_width(types_of(L), text, length));
  return 1;
}

static int lua_text_fit(lua_State *L) {
  size_t length, used;
  const char *text = luaL_checklstring(L, 1, &length);
  lua_Integer given = luaL_checkinteger(L, 2);
  size_t width = given < 0 ? 0 : (size_t)given;
  lua_settop(L, 1);
  if (text_fit(types_of(L), text, length, width, &used) == length) return 1;
  lua_pushlstring(L, text, text_fit(types_of(L), text, length, width > 0 ? width - 1 : 0, &used));
  lua_pushliteral(L, "…");
  lua_concat(L, 2);
  return 1;
}

/* ---- the layout ---- */

typedef struct column {
  const char *name; /* anchored in NAMES */
  size_t length, width;
  bool right;   /* every value is a number */
  bool numbers; /* so are its strings */
} column;

typedef struct layout {
  lua_State *L;
  const text_locale *types;
  size_t columns, blanks, filled;
  bool cuts;        /* cells are cut to their column's width */
  const char *null; /* anchored in OPTIONS */
  size_t null_length, null_width;
  column *column;
  char *buffer;
} layout;

typedef struct cell {
  const char *text;
  size_t length, width;
  char number[NUMBER_BYTES];
} cell;

static void flush(layout *self) {
  if (self->filled == 0) return;
  lua_pushvalue(self->L, WRITE);
  lua_pushlstring(self->L, self->buffer, self->filled);
  self->filled = 0;
  lua_call(self->L, 1, 0);
}

static void put_bytes(layout *self, const char *bytes, size_t length) {
  while (length > 0) {
    if (self->filled == BUFFER_BYTES) flush(self);
    size_t part = BUFFER_BYTES - self->filled;
    if (part > length) part = length;
    memcpy(self->buffer + self->filled, bytes, part);
    self->filled += part;
    bytes += part;
    length -= part;
  }
}

/* Blanks are owed until something follows them, so that no line ends in one. */
static void put(layout *self, const char *bytes, size_t length) {
  static const char blanks[64] = "                                                                ";
  if (length == 0) return;
  for (; self->blanks > 0;) {
    size_t part = self->blanks < sizeof blanks ? self->blanks : sizeof blanks;
    put_bytes(self, blanks, part);
    self->blanks -= part;
  }
  put_bytes(self, bytes, length);
}

static void end_line(layout *self) {
  self->blanks = 0;
  put_bytes(self, "\n", 1);
}

/* The shortest of Lua's own form and the exact ones that gives the number back. */
static size_t number_text(lua_State *L, int index, char *out) {
  if (lua_isinteger(L, index))
    return (size_t)snprintf(out, NUMBER_BYTES, LUA_INTEGER_FMT, lua_tointeger(L, index));
  lua_Number value = lua_tonumber(L, index);
  int length = 0;
  for (int digits = 14; digits <= 17; digits++) {
    length = snprintf(out, NUMBER_BYTES, "%.*g", digits, value);
    if (value != value || strtod(out, NULL) == value) break;
  }
  if (out[strspn(out, "-0123456789")] == 0) // looks like an integer, and is none
    length += snprintf(out + length, NUMBER_BYTES - (size_t)length, ".0");
  return (size_t)length;
}

/* The value on top of the stack as text. `at` names the cell; what `cell` makes is kept in MADE. */
static void cell_read(layout *self, lua_Integer at, cell *out) {
  lua_State *L = self->L;
  switch (lua_type(L, -1)) {
  case LUA_TNIL:
    *out = (cell){.text = self->null, .length = self->null_length, .width = self->null_width};
    return;
  case LUA_TNUMBER:
    out->length = out->width = number_text(L, -1, out->number);
    out->text = out->number;
    return;
  case LUA_TBOOLEAN:
    out->text = lua_toboolean(L, -1) ? "true" : "false";
    out->length = out->width = strlen(out->text);
    return;
  case LUA_TSTRING:
    out->text = lua_tolstring(L, -1, &out->length);
    if (text_is_plain(out->text, out->length)) break;
    /* fall through */
  default:
    if (lua_rawgeti(L, MADE, at) == LUA_TNIL) {
      lua_pop(L, 1);
      lua_pushvalue(L, CELL);
      lua_pushvalue(L, -2);
      lua_call(L, 1, 1);
      lua_pushvalue(L, -1);
      lua_rawseti(L, MADE, at);
    }
    lua_replace(L, -2);
    out->text = luaL_checklstring(L, -1, &out->length);
  }
  out->width = text_width(self->types, out->text, out->length);
}

/* Pushes the value of a column of the row on top of the stack. */
static int push_value(layout *self, size_t index) {
  lua_rawgeti(self->L, NAMES, (lua_Integer)index + 1);
  return lua_gettable(self->L, -2);
}

static void measure(layout *self, lua_Integer rows) {
  lua_State *L = self->L;
  cell found;
  for (lua_Integer r = 1; r <= rows; r++) {
    lua_geti(L, ROWS, r);
    for (size_t c = 0; c < self->columns; c++) {
      column *of = &self->column[c];
      int type = push_value(self, c);
      bool number = type == LUA_TNUMBER || (type == LUA_TSTRING && of->numbers);
      if (type != LUA_TNIL && !number) of->right = false;
      cell_read(self, r * (lua_Integer)self->columns + (lua_Integer)c, &found);
      if (found.width > of->width) of->width = found.width;
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }
}

/* Takes width from the widest columns until the table fits. */
static void shrink(layout *self, size_t available) {
  size_t total = 2 * (self->columns - 1);
  for (size_t c = 0; c < self->columns; c++)
    total += self->column[c].width;
  while (total > available) {
    column *widest = &self->column[0];
    for (size_t c = 1; c < self->columns; c++)
      if (self->column[c].width > widest->width) widest = &self->column[c];
    if (widest->width <= LEAST_WIDTH) return;
    size_t cut = (total - available + 1) / 2;
    if (cut > widest->width - LEAST_WIDTH) cut = widest->width - LEAST_WIDTH;
    widest->width -= cut;
    total -= cut;
  }
}

static void put_cell(layout *self, const column *of, const cell *what) {
  size_t length = what->length, width = what->width;
  bool cut = self->cuts && width > of->width && what->text != self->null;
  if (cut) length = text_fit(self->types, what->text, length, of->width - 1, &width);
  width += cut;
  size_t gap = of->width > width ? of->width - width : 0;
  if (of->right) self->blanks += gap;
  put(self, what->text, length);
  if (cut) put(self, "…", strlen("…"));
  if (!of->right) self->blanks += gap;
  self->blanks += 2;
}

static void put_head(layout *self) {
  for (size_t c = 0; c < self->columns; c++) {
    const column *of = &self->column[c];
    size_t width = text_width(self->types, of->name, of->length);
    put_cell(self, of, &(cell){.text = of->name, .length = of->length, .width = width});
  }
  end_line(self);
  for (size_t c = 0; c < self->columns; c++) {
    for (size_t i = 0; i < self->column[c].width; i++)
      put(self, "─", strlen("─"));
    self->blanks += 2;
  }
  end_line(self);
}

static void put_rows(layout *self, lua_Integer rows) {
  lua_State *L = self->L;
  cell found;
  for (lua_Integer r = 1; r <= rows; r++) {
    lua_geti(L, ROWS, r);
    for (size_t c = 0; c < self->columns; c++) {
      push_value(self, c);
      cell_read(self, r * (lua_Integer)self->columns + (lua_Integer)c, &found);
      put_cell(self, &self->column[c], &found);
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
    end_line(self);
  }
}

static void layout_columns(layout *self, lua_Integer rows, int numbers) {
  lua_State *L = self->L;
  int top = lua_gettop(L);
  for (size_t c = 0; c < self->columns; c++) {
    column *of = &self->column[c];
    lua_rawgeti(L, NAMES, (lua_Integer)c + 1);
    of->name = luaL_checklstring(L, -1, &of->length);
    of->width = text_width(self->types, of->name, of->length);
    of->right = rows > 0;
    of->numbers = lua_istable(L, numbers) && lua_getfield(L, numbers, of->name) != LUA_TNIL;
    lua_settop(L, top);
  }
}

/* table(rows, names, {cell=, width=, null=, null_width=, numbers=}, write): a header, a rule, one
 * line a row. `numbers` is a set of columns whose strings are numbers.
 * `cell(value) -> string` gives the text of what is no plain string, number or boolean; width 0
 * cuts nothing; `null` is what stands for nil. write(text) is called with pieces, and cannot wait.
 */
static int lua_text_table(lua_State *L) {
  lua_settop(L, WRITE);
  for (int i = ROWS; i <= OPTIONS; i++)
    luaL_checktype(L, i, LUA_TTABLE);
  luaL_checktype(L, WRITE, LUA_TFUNCTION);
  lua_getfield(L, OPTIONS, "cell");
  lua_newtable(L);
  layout self = {.L = L, .types = types_of(L), .columns = lua_rawlen(L, NAMES)};
  if (self.columns == 0) return 0;
  lua_getfield(L, OPTIONS, "width");
  lua_getfield(L, OPTIONS, "null_width");
  lua_getfield(L, OPTIONS, "null");
  lua_Integer width = luaL_optinteger(L, -3, 0);
  self.null_width = (size_t)luaL_optinteger(L, -2, 0);
  self.null = luaL_optlstring(L, -1, "", &self.null_length);
  self.column = lua_newuserdatauv(L, self.columns * sizeof *self.column, 0);
  self.buffer = lua_newuserdatauv(L, BUFFER_BYTES, 0);
  luaL_checkstack(L, 16, "text.table");
  lua_Integer rows = luaL_len(L, ROWS);
  lua_getfield(L, OPTIONS, "numbers");
  layout_columns(&self, rows, lua_gettop(L));
  measure(&self, rows);
  self.cuts = width > 0;
  if (self.cuts) shrink(&self, (size_t)width);
  for (size_t c = 0; !self.cuts && c < self.columns; c++) // a huge value is not padded for
    if (self.column[c].width > MOST_PADDING) self.column[c].width = MOST_PADDING;
  put_head(&self);
  put_rows(&self, rows);
  flush(&self);
  return 0;
}

static int text_gc(lua_State *L) {
  text_close(luaL_checkudata(L, 1, METATABLE));
  return 0;
}

int lua_open_text(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"width", lua_text_width}, {"fit", lua_text_fit}, {"table", lua_text_table}, {NULL, NULL}};
  luaL_newmetatable(L, METATABLE);
  lua_pushcfunction(L, text_gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_newlibtable(L, functions);
  text_locale *types = lua_newuserdatauv(L, sizeof *types, 0);
  *types = (text_locale){0};
  luaL_setmetatable(L, METATABLE);
  if (!text_open(types)) err_raisef(L, ERR_CONFIG, NULL, "the C library knows no C.UTF-8 locale");
  luaL_setfuncs(L, functions, 1);
  return 1;
}
