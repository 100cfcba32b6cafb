/* fs_ops.h: whole operations on files, blocking: they belong on a thread of the pool.
 *
 * All return 0 or an errno. Paths are terminated. */
#ifndef NEBULA_FS_OPS_H
#define NEBULA_FS_OPS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

enum { FS_DIGEST = 32 };

/* Writes all of it, going on after short writes and signals. */
int fs_write_fully(int fd, const void *data, size_t length);

/* Reads up to `length` bytes; *got is less only at the end of the file. */
int fs_read_fully(int fd, void *data, size_t length, size_t *got);

/* Reads a whole file into *data, which the caller frees. EFBIG where it has more than `most` bytes;
 * *length then says how many were seen. */
int fs_read_file(const char *path, size_t most, char **data, size_t *length);

/* Writes a file in place. */
int fs_write_file(const char *path, const void *data, size_t length, mode_t mode);

/* Writes a new file beside it, syncs it, renames it over the old one and syncs the directory: the
 * path names the old content or the new one, whatever happens. Leaves nothing behind where it
 * fails. A mode of 0 keeps that of the file it replaces, else 0644 less the umask. */
int fs_replace_file(const char *path, const void *data, size_t length, mode_t mode);

/* Makes a new file for writing beside a path; the caller renames or removes it, and frees *beside.
 */
int fs_open_beside(const char *path, char **beside, int *fd);

/* Syncs the directory that holds the path. */
int fs_sync_parent(const char *path);

/* Makes a directory; with `parents` also those above it, and it may be there already. */
int fs_make_directory(const char *path, bool parents, mode_t mode);

/* Removes a file, a link, or a directory, which must be empty unless `recursive`. */
int fs_remove_path(const char *path, bool recursive);

/* SHA-256 of a file's content, read in pieces. ECANCELED where *cancelled becomes true. */
int fs_hash_file(const char *path, unsigned char digest[FS_DIGEST], uint64_t *size,
                 const atomic_bool *cancelled);

/* "file", "directory", "link", "fifo", "socket", "device". */
const char *fs_type_name(mode_t mode);

#endif
