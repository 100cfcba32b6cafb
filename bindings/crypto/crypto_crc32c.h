/* crypto_crc32c.h: CRC-32C (Castagnoli; RFC 3720, appendix B.4), by the processor where it can. */
#ifndef NEBULA_CRYPTO_CRC32C_H
#define NEBULA_CRYPTO_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Goes on from the checksum of what came before; 0 to begin. Any thread. */
uint32_t crypto_crc32c(uint32_t before, const void *data, size_t length);

/* The same without the processor's help: the reference for its spec. */
uint32_t crypto_crc32c_portable(uint32_t before, const void *data, size_t length);

/* The share that bytes of this checksum have in that of a longer run, where `bytes` more follow:
 * the checksum of the run is the XOR of the shares of its pieces. */
uint32_t crypto_crc32c_before(uint32_t crc, uint64_t bytes);

#endif
