/* text/vocabulary.h
 *
 * The tables of a byte-level BPE: pieces by name, merges by pair. Read from vocab.json + merges.txt, or from
 * tokenizer.json.
 *
 * Invariant: ids lie in [0, size), no two pieces share one; size is one above the highest id; every merge's parts and
 * result are pieces.
 */
#ifndef ZOODIP_TEXT_VOCABULARY_H
#define ZOODIP_TEXT_VOCABULARY_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct piece_slot {
    char *name; /* NULL: free */
    int32_t id;
};

struct merge_slot {
    int32_t left, right, result, rank; /* result < 0: free */
};

struct vocabulary {
    int32_t size;
    struct piece_slot *pieces; /* open addressing, piece_room a power of two */
    int64_t piece_count, piece_room;
    struct merge_slot *merges;
    int64_t merge_count, merge_room;
};

/* Adds a piece. A name that already exists is an error. */
struct error vocabulary_add(struct vocabulary *v, const char *name, int32_t id);

/* Id of a piece, or -1. */
int32_t vocabulary_find(const struct vocabulary *v, const char *name);

/* Merge `rank` joins two named pieces. Parts or results that are not pieces are an error. */
struct error vocabulary_add_merge(struct vocabulary *v, const char *left, const char *right, int32_t rank);

/* The merge of a pair, or NULL. */
const struct merge_slot *vocabulary_merge(const struct vocabulary *v, int32_t left, int32_t right);

/* FOLDER/vocab.json and FOLDER/merges.txt. */
struct error vocabulary_read_files(struct vocabulary *v, const char *folder);

struct cJSON;

/* The "model" of a tokenizer.json's content; path for the errors. */
struct error vocabulary_read_model(struct vocabulary *v, const struct cJSON *root, const char *path);

void vocabulary_free(struct vocabulary *v);

#endif
