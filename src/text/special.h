/* text/special.h
 *
 * What a tokenizer's folder says besides its vocabulary: the four special tokens, added words, the longest text. Two
 * generations of folders say it in different places:
 *
 *     with `added_tokens_decoder` in tokenizer_config.json, everything is in that file;
 *     without it, special_tokens_map.json overrules that file, and added words are in added_tokens.json or
 *     tokenizer.json.
 *
 * Equals what transformers' TokenizersBackend adds to the tokenizer, in its order: added words by id, then special
 * tokens, then additional ones; if a text occurs twice, the last one decides how it is matched.
 */
#ifndef ZOODIP_TEXT_SPECIAL_H
#define ZOODIP_TEXT_SPECIAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum special { SPECIAL_START, SPECIAL_END, SPECIAL_UNKNOWN, SPECIAL_PADDING, SPECIAL_COUNT };

struct special_token {
    char *text;
    int64_t id;      /* the file's, for the order only; -1: a special token */
    bool normalized; /* matched in the normalized text, else in the raw one */
    const char *key; /* where it was found, for the errors; a constant */
};

struct special_tokens {
    struct special_token *items;
    int64_t count, room;
    char *names[SPECIAL_COUNT]; /* texts of the four */
    int64_t max_length;         /* model_max_length: ids of a text; INT64_MAX if the folder names none */
};

struct cJSON;

/* tokenizer: the content of tokenizer.json, or NULL where there is none. */
struct error special_tokens_read(struct special_tokens *s, const char *folder, const struct cJSON *tokenizer);
void special_tokens_free(struct special_tokens *s);

#endif
