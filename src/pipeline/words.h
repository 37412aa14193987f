/* pipeline/words.h
 *
 * Learned words from their files, for use in prompts. Their tokens follow the tokenizer's own, and their vectors are
 * the rows that a denoiser looks up for them.
 */
#ifndef ZOODIP_PIPELINE_WORDS_H
#define ZOODIP_PIPELINE_WORDS_H

#include <stdbool.h>

#include "base/text.h"
#include "text/tokenizer.h"

struct words {
    int32_t first_id; /* the id of row 0; the others follow */
    int64_t vectors;  /* of all words */
    float *rows;      /* [vectors, width] */

    /* private */
    struct tokenizer *tokenizer;
    const struct text_list *files;
    struct embedding *items; /* [files->count] */
    bool *named;             /* [files->count]: by a prompt */
};

/* Reads the words, all `width` wide, and adds their tokens to the tokenizer; both arguments are borrowed. Free with
 * words_free, after an error too. */
struct error words_read(struct words *w, const struct text_list *files, struct tokenizer *tokenizer, int64_t width);
void words_free(struct words *w);

/* As diffusers' maybe_convert_prompt: spells out the words of several vectors that the tokenizer finds in the text.
 * Unlike diffusers, which looks them up in lower case, it also spells out words with capitals. memory_free the prompt,
 * after an error too. */
struct error words_convert(struct words *w, const char *text, char **prompt);

/* Logs a warning for each word that no converted text contains. */
void words_warn_unnamed(const struct words *w);

#endif
