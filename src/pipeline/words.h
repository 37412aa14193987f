/* pipeline/words.h
 *
 * Learned words from their files, for use in prompts, under the names that the files have or under others. Their tokens
 * follow the tokenizer's own, and their vectors are the rows that a denoiser looks up for them.
 */
#ifndef ZOODIP_PIPELINE_WORDS_H
#define ZOODIP_PIPELINE_WORDS_H

#include "base/text.h"
#include "text/tokenizer.h"

enum { WORD_HASH = 12 }; /* digits of a word's hash */

struct words {
    int32_t first_id; /* the id of row 0; the others follow */
    int64_t vectors;  /* of all words */
    float *rows;      /* [vectors, width] */

    struct tokenizer *tokenizer; /* that knows them */

    /* private */
    struct word *items; /* [count] */
    int64_t count;
    int64_t limit; /* ids that count of a prompt that is longer; 0: none is */
};

/* Reads the words, all `width` wide, and adds their tokens to the tokenizer. A source is a file, or "WORD=FILE", which
 * calls the file's word WORD: if WORD is not empty and has no slash, and no file of the whole name exists. Both
 * arguments are borrowed. Free with words_free, after an error too. */
struct error words_read(struct words *w, const struct text_list *sources, struct tokenizer *tokenizer, int64_t width);
void words_free(struct words *w);

/* A prompt as tokenizer_encode does it. Logs a warning if it is longer; notes the words that are whole among the ids.
 * `option` gave the prompt, for the warning and for errors. */
struct error words_encode(struct words *w, const char *option, const char *prompt, int32_t *ids, int64_t length);

/* Notes the words that are whole among these ids. */
void words_mark(struct words *w, const int32_t *ids, int64_t length);

/* Logs a warning for each word that no encoded prompt contains. */
void words_warn_unnamed(const struct words *w);

/* The words that the prompts name, each with the first 12 digits of its file's SHA-256, as AUTOMATIC1111 shows them: "sks:
 * 0123456789ab, mug: ..."; "" if there are none. Free *text with memory_free. */
struct error words_hashes(const struct words *w, char **text);

#endif
