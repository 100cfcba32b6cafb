/* types.c: a table of PostgreSQL's common types (src/include/catalog/pg_type.dat). */
#include "pg/types.h"
#include <stddef.h>

static const struct type {
  Oid type, array;
  const char *name;
} TYPES[] = {
    {16, 1000, "bool"},          {17, 1001, "bytea"},       {18, 1002, "char"},
    {19, 1003, "name"},          {20, 1016, "int8"},        {21, 1005, "int2"},
    {23, 1007, "int4"},          {25, 1009, "text"},        {26, 1028, "oid"},
    {114, 199, "json"},          {142, 143, "xml"},         {650, 651, "cidr"},
    {700, 1021, "float4"},       {701, 1022, "float8"},     {829, 1040, "macaddr"},
    {869, 1041, "inet"},         {1042, 1014, "bpchar"},    {1043, 1015, "varchar"},
    {1082, 1182, "date"},        {1083, 1183, "time"},      {1114, 1115, "timestamp"},
    {1184, 1185, "timestamptz"}, {1186, 1187, "interval"},  {1266, 1270, "timetz"},
    {1560, 1561, "bit"},         {1562, 1563, "varbit"},    {1700, 1231, "numeric"},
    {2205, 2210, "regclass"},    {2950, 2951, "uuid"},      {3220, 3221, "pg_lsn"},
    {3614, 3643, "tsvector"},    {3802, 3807, "jsonb"},     {3904, 3905, "int4range"},
    {3906, 3907, "numrange"},    {3908, 3909, "tsrange"},   {3910, 3911, "tstzrange"},
    {3912, 3913, "daterange"},   {3926, 3927, "int8range"}, {2278, 0, "void"},
    {705, 0, "unknown"},
};

Oid pg_type_element(Oid array) {
  for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
    if (TYPES[i].array == array && array != 0) return TYPES[i].type;
  return 0;
}

const char *pg_type_name(Oid type) {
  for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
    if (TYPES[i].type == type) return TYPES[i].name;
  return NULL;
}
