/* text/tokenizer.h
 *
 * CLIP's byte-level BPE (transformers' CLIPTokenizer): text is normalized (NFC, white space collapsed, lower case),
 * split by CLIP's pattern, bytes mapped to visible characters, pairs merged by rank, the last piece of a word marked
 * "</w>". Added words (the placeholder) are cut out of the text first, as AddedVocabulary of the tokenizers library
 * does.
 *
 * Ids equal `CLIPTokenizer.from_pretrained(folder)(text, padding="max_length", max_length=n, truncation=True)`, but for
 * words of several vectors, "sks" with "sks_1", "sks_2": where the tokenizer finds "sks", the ids of all of them follow
 * one another. (diffusers' maybe_convert_prompt means to do the same, but replaces the letters, so that "mug" is also
 * found inside "mug2", and not in "Mug".)
 */
#ifndef ZOODIP_TEXT_TOKENIZER_H
#define ZOODIP_TEXT_TOKENIZER_H

#include <stdint.h>

#include "base/error.h"

struct tokenizer;

/* Loads FOLDER (the model's `tokenizer/`): vocab.json + merges.txt, or tokenizer.json alone. Errors name file and
 * key. */
struct error tokenizer_load(struct tokenizer **tokenizer, const char *folder);

/* Texts are filled up with that token from now on, whatever the folder says. */
struct error tokenizer_pad_with(struct tokenizer *tokenizer, const char *token);

/* A tokenizer for a word of one's own: knows what `base` knows now, and words added to either are unknown to the other.
 * It costs 6 KB, for it reads the vocabulary of the base (of 49,408 pieces: 6 MB): the base must outlive it. Several
 * threads may each use one of the same base, as long as nothing is added to the base. */
struct error tokenizer_derive(struct tokenizer **tokenizer, const struct tokenizer *base);
void tokenizer_free(struct tokenizer *tokenizer);

/* Number of ids in use, which is also the id of the next added word. */
int32_t tokenizer_size(const struct tokenizer *tokenizer);

/* How many ids a text can have, start and end included: the tokenizer's model_max_length, or the text encoder's
 * positions if these are fewer. */
int64_t tokenizer_length(const struct tokenizer *tokenizer, int64_t positions);

/* Adds a word of several vectors, as diffusers names their tokens: word, word_1, word_2, ...; *first is the id of the
 * first, the others follow. A name that is a token already, or an added word that texts cannot tell from it, is an error
 * ("sks" is allowed even if the vocabulary has "sks</w>"), as is an empty word; nothing is added then. */
struct error tokenizer_add(struct tokenizer *tokenizer, const char *word, int64_t vectors, int32_t *first);

/* The ids of a text without start and end, at most `room` of them; *count is how many there are in all. */
struct error tokenizer_pieces(const struct tokenizer *tokenizer, const char *text, int32_t *ids, int64_t room,
                              int64_t *count);

/* How many of these ids, `count` or fewer, stand for one word of several vectors that begins there; else 1. */
int64_t tokenizer_word_at(const struct tokenizer *tokenizer, const int32_t *ids, int64_t count);

/* Writes start, end and padding around the `count` ids that ids [length] holds from place 1 on; at least two fewer. */
void tokenizer_frame(const struct tokenizer *tokenizer, int32_t *ids, int64_t count, int64_t length);

/* start, ids, end, padding: exactly `length` ids, cut where the text is longer. */
struct error tokenizer_encode(const struct tokenizer *tokenizer, const char *text, int32_t *ids, int64_t length);

/* ERROR_BAD_INPUT if a text has more than `length` ids; it says what tokenizer_encode leaves out, from the first word on
 * that does not fit in whole; a word that alone has more ids, such as a text without blanks, is cut inside. */
struct error tokenizer_check_length(const struct tokenizer *tokenizer, const char *text, int64_t length);

#endif
