/* s3_xml_fuzz.c: what a hostile S3 server may send, into the parser of its answers. Built with
 * -fsanitize=fuzzer,address from this file, bindings/s3/xml.c and bindings/base/bytes.c, and
 * -lexpat. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "s3/xml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t walk(const xml_node *node, int depth) {
  size_t count = 0;
  if (depth > XML_DEPTH_MOST) abort();
  for (; node != NULL; node = node->next) {
    if (node->text[node->text_length] != '\0') abort();
    if (node->first != NULL && node->text_length != 0) abort();
    count += 1 + walk(node->first, depth + 1);
  }
  return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  xml_document *document = xml_parse((const char *)data, size);
  const xml_node *root = xml_root(document);
  if (root != NULL) {
    if (root->next != NULL || walk(root, 1) > XML_NODES_MOST) abort();
    for (const xml_node *at = xml_child(root, "Contents"); at != NULL; at = xml_again(at)) {
      const char *key = xml_value(at, "Key");
      if (key != NULL && strlen(key) > size) abort();
    }
  }
  xml_free(document);
  return 0;
}
