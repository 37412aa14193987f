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

#include <stdint.h>

#include "base/error.h"

struct merge {
    int32_t left, right, result; /* pieces */
    int32_t rank;                /* merges of lower rank come first */
};

struct vocabulary {
    int32_t size;

    /* private: two hash tables with open addressing, rooms powers of two */
    struct piece *pieces;
    int64_t piece_count, piece_room;
    struct merge *merges;
    int64_t merge_count, merge_room;
};

/* FOLDER/vocab.json and FOLDER/merges.txt. */
struct error vocabulary_read_files(struct vocabulary *v, const char *folder);

struct cJSON;

/* The "model" of a tokenizer.json's content; path for the errors. */
struct error vocabulary_read_model(struct vocabulary *v, const struct cJSON *root, const char *path);

void vocabulary_free(struct vocabulary *v);

/* Id of a piece, or -1. */
int32_t vocabulary_find(const struct vocabulary *v, const char *name);

/* The merge of a pair, or NULL. */
const struct merge *vocabulary_merge(const struct vocabulary *v, int32_t left, int32_t right);

#endif
