/* pipeline/initializer.h
 *
 * What a word is before its first step: token.initializer, a text or the file of a word that was learned before.
 *
 *     a text of one token, "mug"               all vectors are that token's row
 *     of as many tokens as the word has        a row each
 *     vectors, "red mug" and 2
 *     of another number of tokens              all vectors are the mean of the rows
 *     a file, "results/mug/x.safetensors"      its own vectors, of which token.vectors, unless given, is the number; not one
 *                                              that lies in output.dir
 */
#ifndef ZOODIP_PIPELINE_INITIALIZER_H
#define ZOODIP_PIPELINE_INITIALIZER_H

#include "files/config.h"
#include "model/embedding.h"
#include "model/text_encoder.h"
#include "text/tokenizer.h"

struct initializer {
    struct embedding word; /* a file's; rows NULL: it is a text */
    int32_t *ids;          /* [count]: a text's tokens */
    int64_t count;
};

/* A file's part, which settles token.vectors and what the config's recipe says of the file; nothing for a text. width: of
 * the text encoder. Errors name the key. Free with initializer_free, after an error too. */
struct error initializer_open(struct initializer *i, struct config *config, int64_t width);

/* A text's part; nothing for a file. vocab: rows of the token table. */
struct error initializer_tokens(struct initializer *i, const struct config *config, const struct tokenizer *tokenizer,
                                int64_t vocab);

/* The word's first vectors -> rows [vectors, width]. */
struct error initializer_rows(const struct initializer *i, const struct text_encoder *text, int64_t vectors,
                              float *rows);

/* What two ranks that have read the same have alike. */
uint32_t initializer_sum(const struct initializer *i);

/* Logs what a text of several tokens, or a file, comes to. */
void initializer_log(const struct initializer *i, const struct config *config);

void initializer_free(struct initializer *i);

#endif
