/* text/tokenizer.h
 *
 * CLIP's byte-level BPE (transformers' CLIPTokenizer): text is normalized (NFC, white space collapsed, lower case),
 * split by CLIP's pattern, bytes mapped to visible characters, pairs merged by rank, the last piece of a word marked
 * "</w>". Added words (the placeholder) are cut out of the text first, as AddedVocabulary of the tokenizers library
 * does.
 *
 * Ids equal `CLIPTokenizer.from_pretrained(folder)(text, padding="max_length", max_length=n, truncation=True)`.
 */
#ifndef ZOODIP_TEXT_TOKENIZER_H
#define ZOODIP_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct tokenizer;

/* Loads FOLDER (the model's `tokenizer/`): vocab.json + merges.txt, or tokenizer.json alone. Errors name file and
 * key. */
struct error tokenizer_load(struct tokenizer **tokenizer, const char *folder);
void tokenizer_free(struct tokenizer *tokenizer);

/* Number of ids in use, which is also the id of the next added word. */
int32_t tokenizer_size(const struct tokenizer *tokenizer);

/* Adds a word as `tokenizer.add_tokens(word)` does and returns its id. A word that is already a token is an error
 * ("sks" is allowed even if the vocabulary has "sks</w>"), as is an empty one. */
struct error tokenizer_add(struct tokenizer *tokenizer, const char *word, int32_t *id);

/* The ids of a text without start and end, at most `room` of them; *count is how many there are in all
 * (= tokenizer.encode(text, add_special_tokens=False)). */
struct error tokenizer_pieces(const struct tokenizer *tokenizer, const char *text, int32_t *ids, int64_t room,
                              int64_t *count);

/* start, ids, end, padding: exactly `length` ids, cut where the text is longer. */
struct error tokenizer_encode(const struct tokenizer *tokenizer, const char *text, int32_t *ids, int64_t length);

#endif
