/* text/added_words.h
 *
 * Words that a tokenizer cuts out of a text before anything else, as AddedVocabulary of the tokenizers library does:
 * special tokens, words that a model's folder brings along, learned words.
 *
 * A word of several vectors, "sks" with "sks_1", "sks_2", is found as "sks" and stands for all of them.
 */
#ifndef ZOODIP_TEXT_ADDED_WORDS_H
#define ZOODIP_TEXT_ADDED_WORDS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* `pattern` is matched in the raw text, or, if `normalized`, the normalized word in the normalized text. */
struct added_word {
    char *text, *pattern;
    int32_t id;
    bool normalized;
    int32_t *more; /* [more_count]: the ids of its other vectors */
    int64_t more_count, more_room;
};

struct added_words {
    struct added_word *items;
    int64_t count, room;
};

void added_words_free(struct added_words *w);

/* Copies all words, with their vectors, to an empty `w`, which is to be freed after an error too. */
struct error added_words_copy(struct added_words *w, const struct added_words *from);

/* The word of that name, or NULL; the same for one that texts cannot tell from it. */
struct added_word *added_words_find(const struct added_words *w, const char *text);
struct error added_words_like(const struct added_words *w, const char *text, const struct added_word **like);

/* Adds a word of one vector; one that is there already is from now on matched as `normalized` says. */
struct error added_words_put(struct added_words *w, const char *text, int32_t id, bool normalized);

/* Adds a word's next vector. */
struct error added_words_extend(struct added_word *word, int32_t id);

/* "WORD_3", the name of a word's vector 3; of vector 0 the word itself. */
enum { ADDED_WORD_SIZE = 512 };
struct error added_words_name(char name[ADDED_WORD_SIZE], const char *word, int64_t i);

/* Makes words of several vectors of those whose names say so. */
struct error added_words_join(struct added_words *w);

/* The longest word of one kind at the beginning of a text, or NULL. */
const struct added_word *added_words_at(const struct added_words *w, const char *text, int64_t length, bool normalized);

/* The ids found in a text -> `ids`, with all vectors where a word of several stands, unless the text spells them out
 * itself ("sks sks_1 sks_2"). At most `room` are written; returns how many there are in all. */
int64_t added_words_spell_out(const struct added_words *w, const int32_t *found, int64_t found_count, int32_t *ids,
                              int64_t room);

/* How many ids at the beginning of a list are all vectors of one word of several; else 1. */
int64_t added_words_at_ids(const struct added_words *w, const int32_t *ids, int64_t count);

#endif
