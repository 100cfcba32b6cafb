/* lua_crypto.c: the table nebula.crypto: digests, identifiers, random bytes, bytes as text. See
 * meta/crypto.lua for what scripts see.
 *
 * Text of more than 256 KiB is hashed on the thread pool while the task waits: at 1.9 GB/s that is
 * where hashing takes longer than the way there and back. */
#include <string.h>
#include <lauxlib.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include "base/lua_error.h"
#include "base/lua_options.h"
#include "base/lua_work.h"
#include "crypto/crypto_crc32c.h"
#include "crypto/crypto_text.h"
#include "crypto/crypto_uuid.h"
#include "nebula.h"

enum { SHA256_BYTES = 32, INLINE_MOST = 256 * 1024, RANDOM_MOST = 16 * 1024 * 1024 };

static const char HASHER_TYPE[] = "nebula.crypto.hasher";

static const char *check_bytes(lua_State *L, int index, const char *call, const char *what,
                               size_t *length) {
  if (lua_type(L, index) != LUA_TSTRING) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: %s must be a string, got %s", call, what,
               luaL_typename(L, index));
  }
  return lua_tolstring(L, index, length);
}

static bool check_raw(lua_State *L, int index, const char *call) {
  static const char *const OPTIONS[] = {"raw", NULL};
  bool raw = false;
  opt_check(L, index, call, OPTIONS);
  if (lua_istable(L, index)) opt_boolean(L, index, call, "raw", &raw);
  return raw;
}

static _Noreturn void raise_openssl(lua_State *L, const char *call) {
  err_raisef(L, ERR_IO, NULL, "%s: the system's OpenSSL refused; is it whole?", call);
}

static int push_digest(lua_State *L, const unsigned char digest[SHA256_BYTES], bool raw) {
  char text[2 * SHA256_BYTES];
  crypto_hex(digest, SHA256_BYTES, text);
  lua_pushlstring(L, raw ? (const char *)digest : text, raw ? SHA256_BYTES : sizeof text);
  return 1;
}

/* ---- digests of one string ---- */

typedef struct digest_job {
  lua_work base;
  const char *data, *key; /* Lua's memory; key NULL for a plain digest */
  size_t length, key_length;
  bool raw, done;
  unsigned char digest[SHA256_BYTES];
} digest_job;

static void digest_run(lua_work *work) {
  digest_job *self = (digest_job *)work;
  unsigned size = SHA256_BYTES;
  if (self->key == NULL) {
    self->done = EVP_Digest(self->data, self->length, self->digest, &size, EVP_sha256(), NULL) == 1;
  } else {
    self->done = HMAC(EVP_sha256(), self->key, (int)self->key_length,
                      (const unsigned char *)self->data, self->length, self->digest, &size) != NULL;
  }
}

static const lua_work_class DIGEST = {.call = "crypto.sha256", .run = digest_run};
static const lua_work_class DIGEST_KEYED = {.call = "crypto.hmac", .run = digest_run};

static int digest_done(lua_State *L, int status, lua_KContext context) {
  (void)status;
  digest_job *self = (digest_job *)context;
  if (!self->done) raise_openssl(L, self->key == NULL ? "crypto.sha256" : "crypto.hmac");
  return push_digest(L, self->digest, self->raw);
}

/* The strings stand at the bottom of the stack, the data at `index`. */
static int digest(lua_State *L, const digest_job *wanted, int index) {
  if (wanted->length <= INLINE_MOST || task_current_id(L) == 0 || !lua_isyieldable(L)) {
    digest_job job = *wanted;
    digest_run(&job.base);
    return digest_done(L, LUA_OK, (lua_KContext)&job);
  }
  digest_job *job = lua_work_new(L, sizeof *job, wanted->key == NULL ? &DIGEST : &DIGEST_KEYED);
  job->data = wanted->data;
  job->length = wanted->length;
  job->key = wanted->key;
  job->key_length = wanted->key_length;
  job->raw = wanted->raw;
  lua_createtable(L, 2, 0);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, 1);
  lua_pushvalue(L, index);
  lua_rawseti(L, -2, 2); // stack: strings, job, {strings}
  lua_work_anchor(L, -2);
  return lua_work_wait(L, -1, digest_done);
}

static int crypto_sha256(lua_State *L) {
  digest_job job = {0};
  job.data = check_bytes(L, 1, "crypto.sha256", "the data", &job.length);
  job.raw = check_raw(L, 2, "crypto.sha256");
  return digest(L, &job, 1);
}

static int crypto_hmac(lua_State *L) {
  digest_job job = {0};
  job.key = check_bytes(L, 1, "crypto.hmac", "the key", &job.key_length);
  job.data = check_bytes(L, 2, "crypto.hmac", "the data", &job.length);
  job.raw = check_raw(L, 3, "crypto.hmac");
  if (job.key_length > INLINE_MOST) {
    err_raisef(L, ERR_VALIDATION, NULL, "crypto.hmac: the key has more than 256 KiB");
  }
  return digest(L, &job, 2);
}

/* ---- the incremental digest ---- */

typedef struct hasher {
  EVP_MD_CTX *context; /* NULL once it is finished */
} hasher;

static int hasher_collect(lua_State *L) {
  hasher *self = luaL_checkudata(L, 1, HASHER_TYPE);
  EVP_MD_CTX_free(self->context);
  self->context = NULL;
  return 0;
}

static hasher *check_hasher(lua_State *L, const char *call) {
  hasher *self = luaL_checkudata(L, 1, HASHER_TYPE);
  if (self->context == NULL) {
    err_raisef(L, ERR_VALIDATION, NULL, "%s: this hasher is finished; make a new one", call);
  }
  return self;
}

static int hasher_update(lua_State *L) {
  hasher *self = check_hasher(L, "hasher:update");
  size_t length;
  const char *data = check_bytes(L, 2, "hasher:update", "the data", &length);
  if (EVP_DigestUpdate(self->context, data, length) != 1) raise_openssl(L, "hasher:update");
  lua_settop(L, 1);
  return 1;
}

static int hasher_finish(lua_State *L) {
  hasher *self = check_hasher(L, "hasher:finish");
  bool raw = check_raw(L, 2, "hasher:finish");
  unsigned char result[SHA256_BYTES];
  bool done = EVP_DigestFinal_ex(self->context, result, NULL) == 1;
  EVP_MD_CTX_free(self->context);
  self->context = NULL;
  if (!done) raise_openssl(L, "hasher:finish");
  return push_digest(L, result, raw);
}

static int crypto_sha256_new(lua_State *L) {
  hasher *self = lua_newuserdatauv(L, sizeof *self, 0);
  self->context = NULL;
  luaL_setmetatable(L, HASHER_TYPE);
  self->context = EVP_MD_CTX_new();
  if (self->context == NULL || EVP_DigestInit_ex(self->context, EVP_sha256(), NULL) != 1) {
    raise_openssl(L, "crypto.sha256_new");
  }
  return 1;
}

/* ---- the rest ---- */

static int crypto_crc(lua_State *L) {
  size_t length;
  const char *data = check_bytes(L, 1, "crypto.crc32c", "the data", &length);
  lua_Integer before = luaL_optinteger(L, 2, 0);
  if (before < 0 || before > UINT32_MAX) {
    err_raisef(L, ERR_VALIDATION, NULL, "crypto.crc32c: a checksum to go on from has 32 bits");
  }
  lua_pushinteger(L, crypto_crc32c((uint32_t)before, data, length));
  return 1;
}

static int push_uuid(lua_State *L, bool made, const char *call, const char *text) {
  if (!made) raise_openssl(L, call);
  lua_pushlstring(L, text, CRYPTO_UUID_TEXT);
  return 1;
}

static int crypto_new_v4(lua_State *L) {
  char text[CRYPTO_UUID_TEXT];
  return push_uuid(L, crypto_uuid_v4(text), "crypto.uuid_v4", text);
}

/* Upvalue 1: the clock. */
static int crypto_new_v7(lua_State *L) {
  char text[CRYPTO_UUID_TEXT];
  crypto_uuid_clock *clock = lua_touserdata(L, lua_upvalueindex(1));
  return push_uuid(L, crypto_uuid_v7(clock, text), "crypto.uuid_v7", text);
}

static int crypto_new_v5(lua_State *L) {
  char text[CRYPTO_UUID_TEXT];
  size_t space_length, length;
  const char *space = check_bytes(L, 1, "crypto.uuid_v5", "the namespace", &space_length);
  const char *name = check_bytes(L, 2, "crypto.uuid_v5", "the name", &length);
  if (!crypto_uuid_v5(space, space_length, name, length, text)) {
    err_raisef(L, ERR_VALIDATION, NULL,
               "crypto.uuid_v5: the namespace must be a UUID (8-4-4-4-12 hexadecimal digits)");
  }
  lua_pushlstring(L, text, CRYPTO_UUID_TEXT);
  return 1;
}

static int crypto_random(lua_State *L) {
  lua_Integer count = luaL_checkinteger(L, 1);
  if (count < 0 || count > RANDOM_MOST) {
    err_raisef(L, ERR_VALIDATION, NULL, "crypto.random: wants a count from 0 to %d, got %s",
               RANDOM_MOST, luaL_tolstring(L, 1, NULL));
  }
  luaL_Buffer buffer;
  char *bytes = luaL_buffinitsize(L, &buffer, (size_t)count);
  if (RAND_bytes((unsigned char *)bytes, (int)count) != 1) raise_openssl(L, "crypto.random");
  luaL_pushresultsize(&buffer, (size_t)count);
  return 1;
}

static int crypto_to_hex(lua_State *L) {
  size_t length;
  const char *data = check_bytes(L, 1, "crypto.hex", "the data", &length);
  luaL_Buffer buffer;
  crypto_hex(data, length, luaL_buffinitsize(L, &buffer, 2 * length));
  luaL_pushresultsize(&buffer, 2 * length);
  return 1;
}

static int crypto_from_hex(lua_State *L) {
  size_t length, bad;
  const char *text = check_bytes(L, 1, "crypto.unhex", "the text", &length);
  luaL_Buffer buffer;
  char *out = luaL_buffinitsize(L, &buffer, length / 2 + 1);
  if (!crypto_unhex(text, length, (unsigned char *)out, &bad)) {
    err_raisef(L, ERR_SERIALIZATION, NULL,
               "crypto.unhex: character %d of %d: expected pairs of hexadecimal digits",
               (int)bad + 1, (int)length);
  }
  luaL_pushresultsize(&buffer, length / 2);
  return 1;
}

static int crypto_to_base64(lua_State *L) {
  size_t length;
  const char *data = check_bytes(L, 1, "crypto.base64", "the data", &length);
  luaL_Buffer buffer;
  crypto_base64(data, length, luaL_buffinitsize(L, &buffer, crypto_base64_length(length)));
  luaL_pushresultsize(&buffer, crypto_base64_length(length));
  return 1;
}

static int crypto_from_base64(lua_State *L) {
  size_t length, written, bad;
  const char *text = check_bytes(L, 1, "crypto.unbase64", "the text", &length);
  luaL_Buffer buffer;
  char *out = luaL_buffinitsize(L, &buffer, length / 4 * 3 + 3);
  if (!crypto_unbase64(text, length, (unsigned char *)out, &written, &bad)) {
    err_raisef(L, ERR_SERIALIZATION, NULL,
               "crypto.unbase64: character %d of %d: expected padded base64 (RFC 4648, section 4)",
               (int)bad + 1, (int)length);
  }
  luaL_pushresultsize(&buffer, written);
  return 1;
}

int lua_open_crypto(lua_State *L) {
  static const luaL_Reg FUNCTIONS[] = {
      {"base64", crypto_to_base64},
      {"crc32c", crypto_crc},
      {"hex", crypto_to_hex},
      {"hmac", crypto_hmac},
      {"random", crypto_random},
      {"sha256", crypto_sha256},
      {"sha256_new", crypto_sha256_new},
      {"unbase64", crypto_from_base64},
      {"unhex", crypto_from_hex},
      {"uuid_v4", crypto_new_v4},
      {"uuid_v5", crypto_new_v5},
      {NULL, NULL},
  };
  static const luaL_Reg HASHER[] = {
      {"update", hasher_update},
      {"finish", hasher_finish},
      {"__gc", hasher_collect},
      {"__close", hasher_collect},
      {NULL, NULL},
  };
  luaL_newmetatable(L, HASHER_TYPE);
  luaL_setfuncs(L, HASHER, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_newlib(L, FUNCTIONS);
  crypto_uuid_clock *clock = lua_newuserdatauv(L, sizeof *clock, 0);
  *clock = (crypto_uuid_clock){0};
  lua_pushcclosure(L, crypto_new_v7, 1);
  lua_setfield(L, -2, "uuid_v7");
  return 1;
}
