/* xml.c: see xml.h. expat reads, an arena keeps: a tree is freed in a few calls. */
#include "s3/xml.h"

#include <expat.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include "base/bytes.h"

typedef struct block {
  struct block *next;
  size_t used, size;
  alignas(max_align_t) char data[];
} block;

struct xml_document {
  block *blocks;
  xml_node *root;
  xml_node *open[XML_DEPTH_MOST];
  int depth;
  int nodes;
  bytes text; /* of the element that is open */
  bool refused;
  XML_Parser parser;
};

enum { BLOCK_BYTES = 32 * 1024 };

static void *keep(xml_document *self, size_t size) {
  size = (size + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
  block *at = self->blocks;
  if (at == NULL || at->size - at->used < size) {
    size_t room = size > BLOCK_BYTES ? size : BLOCK_BYTES;
    at = malloc(sizeof *at + room);
    if (at == NULL) return NULL;
    *at = (block){.next = self->blocks, .size = room};
    self->blocks = at;
  }
  void *out = at->data + at->used;
  at->used += size;
  return out;
}

static const char *keep_text(xml_document *self, const char *text, size_t length) {
  char *copy = keep(self, length + 1);
  if (copy == NULL) return NULL;
  memcpy(copy, text, length);
  copy[length] = '\0';
  return copy;
}

static void refuse(xml_document *self) {
  self->refused = true;
  XML_StopParser(self->parser, XML_FALSE);
}

static void XMLCALL on_open(void *data, const XML_Char *name, const XML_Char **attributes) {
  (void)attributes;
  xml_document *self = data;
  if (self->depth == XML_DEPTH_MOST || ++self->nodes > XML_NODES_MOST) {
    refuse(self);
    return;
  }
  const char *colon = strrchr(name, ':');
  if (colon != NULL) name = colon + 1;
  xml_node *node = keep(self, sizeof *node);
  const char *copy = node == NULL ? NULL : keep_text(self, name, strlen(name));
  if (copy == NULL) {
    refuse(self);
    return;
  }
  *node = (xml_node){.name = copy, .text = ""};
  if (self->depth == 0) {
    self->root = node;
  } else {
    xml_node *parent = self->open[self->depth - 1];
    if (parent->last == NULL) {
      parent->first = node;
    } else {
      parent->last->next = node;
    }
    parent->last = node;
  }
  self->open[self->depth++] = node;
  bytes_clear(&self->text);
}

static void XMLCALL on_close(void *data, const XML_Char *name) {
  (void)name;
  xml_document *self = data;
  xml_node *node = self->open[--self->depth];
  if (node->first == NULL && self->text.length > 0) {
    node->text = keep_text(self, self->text.data, self->text.length);
    node->text_length = self->text.length;
    if (node->text == NULL) {
      node->text = "";
      refuse(self);
    }
  }
  bytes_clear(&self->text);
}

static void XMLCALL on_text(void *data, const XML_Char *text, int length) {
  xml_document *self = data;
  if (length > 0 && !bytes_append(&self->text, text, (size_t)length)) refuse(self);
}

static void XMLCALL on_doctype(void *data, const XML_Char *name, const XML_Char *system,
                               const XML_Char *public, int internal) {
  (void)name, (void)system, (void)public, (void)internal;
  refuse(data);
}

xml_document *xml_parse(const char *data, size_t length) {
  if (length == 0 || length > XML_BYTES_MOST) return NULL;
  xml_document *self = calloc(1, sizeof *self);
  if (self == NULL) return NULL;
  self->parser = XML_ParserCreate(NULL);
  if (self->parser == NULL) {
    free(self);
    return NULL;
  }
  XML_SetUserData(self->parser, self);
  XML_SetElementHandler(self->parser, on_open, on_close);
  XML_SetCharacterDataHandler(self->parser, on_text);
  XML_SetStartDoctypeDeclHandler(self->parser, on_doctype);
  bool well = XML_Parse(self->parser, data, (int)length, XML_TRUE) == XML_STATUS_OK;
  XML_ParserFree(self->parser);
  self->parser = NULL;
  bytes_free(&self->text);
  if (well && !self->refused && self->root != NULL) return self;
  xml_free(self);
  return NULL;
}

void xml_free(xml_document *self) {
  if (self == NULL) return;
  for (block *at = self->blocks, *next; at != NULL; at = next) {
    next = at->next;
    free(at);
  }
  free(self);
}

const xml_node *xml_root(const xml_document *self) {
  return self == NULL ? NULL : self->root;
}

bool xml_is(const xml_node *node, const char *name) {
  return node != NULL && strcmp(node->name, name) == 0;
}

const xml_node *xml_child(const xml_node *node, const char *name) {
  const xml_node *child = node == NULL ? NULL : node->first;
  while (child != NULL && strcmp(child->name, name) != 0)
    child = child->next;
  return child;
}

const xml_node *xml_again(const xml_node *node) {
  const xml_node *next = node->next;
  while (next != NULL && strcmp(next->name, node->name) != 0)
    next = next->next;
  return next;
}

const char *xml_value(const xml_node *node, const char *name) {
  const xml_node *child = xml_child(node, name);
  return child == NULL ? NULL : child->text;
}
