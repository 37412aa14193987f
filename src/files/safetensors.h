/* files/safetensors.h
 *
 * Reads safetensors by mmap, a single file or a sharded set with an index; files/safetensors_write.h writes them.
 * Format: 8 bytes little-endian header length, JSON header {name: {dtype, shape, data_offsets}}, data.
 *
 * Invariant: after safetensors_open has returned without error, every entry's data lies inside the mapping and its byte
 * length equals shape x dtype; every byte of the data belongs to exactly one tensor, as the format requires; names are
 * unique and free of control characters. Nothing is assumed about alignment. The header may be hostile; the reader is
 * fuzzed.
 */
#ifndef ZOODIP_FILES_SAFETENSORS_H
#define ZOODIP_FILES_SAFETENSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/error.h"

enum { TENSOR_RANKS = 8 };

struct entry {
    const char *name;
    enum dtype type;
    int dimensions;
    int64_t shape[TENSOR_RANKS];
    int64_t count;    /* product of the shape; 1 for a scalar */
    const void *data; /* in the mapping when read; the caller's when written */
};

struct safetensors {
    char *path;
    int64_t entry_count;
    struct entry *entries; /* sorted by name */
    int64_t metadata_count;
    char **metadata;          /* key, value, key, value, ... */
    struct mapping *mappings; /* private */
    int64_t mapping_count;
    char *names; /* private: of entries that were renamed, or NULL */
};

/* Opens PATH. A PATH that ends in ".json" is an index: opens all the shards of its weight_map, plain names of files in
 * the same folder. Errors: FILE: tensor NAME: what is wrong, what was expected. Nothing is owned after an error. */
struct error safetensors_open(struct safetensors *file, const char *path);
void safetensors_close(struct safetensors *file);

/* Puts others in the place of a file's entries: views of the same data under names in `names`. Takes over both, which
 * memory_free frees; an error too. ERROR_BAD_INPUT: two have the same name. */
struct error safetensors_rename(struct safetensors *file, struct entry *entries, int64_t count, char *names);

/* The length of its data. */
int64_t entry_bytes(const struct entry *entry);

/* The entry of that name, or NULL. */
const struct entry *safetensors_find(const struct safetensors *file, const char *name);

/* The metadata value of that key, or NULL. */
const char *safetensors_metadata(const struct safetensors *file, const char *key);

/* Tells the kernel that an entry's pages will not be needed soon, so that a large file does not stay resident. */
void safetensors_forget(const struct safetensors *file, const struct entry *entry);

#endif
