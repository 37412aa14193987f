/* files/safetensors_write.h
 *
 * Writes one safetensors file, whole or not at all (files/file.h). Its data starts at a multiple of 64, and the widest
 * numbers come first, then names in order: each number lies at a multiple of its size, and the same entries give the
 * same bytes, whatever their order.
 */
#ifndef ZOODIP_FILES_SAFETENSORS_WRITE_H
#define ZOODIP_FILES_SAFETENSORS_WRITE_H

#include <stddef.h>

#include "files/safetensors.h"

/* Entries with `data` filled in; metadata: pairs (key, value), NULL if there are none. */
struct error safetensors_write(const char *path, const struct entry *entries, int64_t entry_count,
                               const char *const *metadata, int64_t metadata_count);

/* The bytes of that file, in memory. Free *bytes with free(), also after an error. */
struct error safetensors_encode(char **bytes, size_t *size, const struct entry *entries, int64_t entry_count,
                                const char *const *metadata, int64_t metadata_count);

#endif
