/* xml.h: S3's XML answers as a small tree, bounded in every direction.
 *
 * The bytes come from a server that may be hostile: a document type (and with it every entity of
 * its own) is refused, and so is what is deeper, larger or fuller than any answer of S3. */
#ifndef NEBULA_S3_XML_H
#define NEBULA_S3_XML_H

#include <stdbool.h>
#include <stddef.h>

enum {
  XML_DEPTH_MOST = 16,
  XML_NODES_MOST = 100000, /* a page of 1,000 objects has about 10,000 */
  XML_BYTES_MOST = 16 * 1024 * 1024,
};

typedef struct xml_node {
  const char *name; /* without a namespace prefix */
  const char *text; /* of an element without children; "" otherwise */
  size_t text_length;
  struct xml_node *first, *last; /* children */
  struct xml_node *next;
} xml_node;

typedef struct xml_document xml_document;

/* NULL where the bytes are no XML within the limits. Everything lives until xml_free. */
xml_document *xml_parse(const char *data, size_t length);
void xml_free(xml_document *self);

const xml_node *xml_root(const xml_document *self);

/* The first child of that name; NULL where there is none, or no node. */
const xml_node *xml_child(const xml_node *node, const char *name);

/* The next sibling that has the node's own name. */
const xml_node *xml_again(const xml_node *node);

/* The text of that child, NULL where there is none. */
const char *xml_value(const xml_node *node, const char *name);

bool xml_is(const xml_node *node, const char *name);

#endif
