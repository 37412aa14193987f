#include "pipeline/initializer.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "files/file.h"
#include "pipeline/fingerprint.h"

enum { MOST = 64 }; /* tokens of a text, and vectors: as many as token.vectors may be */

/* -------------------------------------------------------------------------------- a file */

static struct error check_word(const struct embedding *word, const char *path, int64_t width)
{
    if (word->dim != width)
        return error_input("%s: the word is %lld wide, the model's text encoder %lld", path, (long long)word->dim,
                           (long long)width);
    if (word->vectors > MOST)
        return error_input("%s: has %lld vectors, expected at most %d", path, (long long)word->vectors, MOST);
    return ok();
}

/* A run's own words would take its place, so that the run could not be resumed. */
static struct error check_place(const char *path, const char *folder)
{
    char file[PATH_MAX], own[PATH_MAX];
    if (!realpath(path, file) || !realpath(folder, own)) // the folder need not be there yet
        return ok();
    return path_lies_within(own, file)
               ? error_input(
                     "%s: lies in output.dir, where the run writes its own words; expected a copy elsewhere, or "
                     "another output.dir",
                     path)
               : ok();
}

static struct error read_word(struct embedding *word, const char *path, int64_t width)
{
    if (!text_ends_with(path, ".safetensors"))
        return error_input("\"%.200s\": is taken for a file, and only a learned word in .safetensors is read; expected "
                           "that, or words without a slash",
                           path);
    TRY(embedding_read(word, path));
    return check_word(word, path, width);
}

/* Only the word's numbers: its name does not matter. */
static uint32_t sum_of(const struct embedding *word)
{
    uint32_t crc = fingerprint_bytes(0, &word->vectors, sizeof word->vectors);
    return fingerprint_bytes(crc, word->rows, word->vectors * word->dim * (int64_t)sizeof *word->rows);
}

static struct error settle(struct config *config, const struct embedding *word)
{
    if (config_gives(config, "token.vectors") && config->token.vectors != word->vectors)
        return config_blame(config, "token.vectors",
                            error_input("is %lld, but %.200s has %lld; expected the same, or no number here",
                                        (long long)config->token.vectors, config->token.initializer,
                                        (long long)word->vectors));
    config->token.vectors = word->vectors;
    snprintf(config->initializer_contents, sizeof config->initializer_contents, CONFIG_WORD_FILE "%08x", sum_of(word));
    return ok();
}

struct error initializer_open(struct initializer *i, struct config *config, int64_t width)
{
    *i = (struct initializer){0};
    if (!config_initializer_is_file(config))
        return ok();
    TRY(config_blame(config, "token.initializer", read_word(&i->word, config->token.initializer, width)));
    TRY(config_blame(config, "token.initializer", check_place(config->token.initializer, config->output.dir)));
    return settle(config, &i->word);
}

/* -------------------------------------------------------------------------------- a text */

static struct error read_tokens(struct initializer *i, const char *text, const struct tokenizer *tokenizer,
                                int64_t vocab)
{
    i->ids = memory_alloc(MOST, sizeof *i->ids);
    if (!i->ids)
        return error_memory("the initializer");
    TRY(tokenizer_pieces(tokenizer, text, i->ids, MOST, &i->count));
    if (i->count < 1 || i->count > MOST)
        return error_input(
            "\"%.200s\" is %lld tokens for this model, expected 1 to %d: a word for the kind of thing, or "
            "a few",
            text, (long long)i->count, MOST);
    for (int64_t k = 0; k < i->count; k++)
        if (i->ids[k] >= vocab)
            return error_input("\"%.200s\" has no row in the model's token embedding", text);
    return ok();
}

struct error initializer_tokens(struct initializer *i, const struct config *config, const struct tokenizer *tokenizer,
                                int64_t vocab)
{
    if (i->word.rows)
        return ok();
    return config_blame(config, "token.initializer", read_tokens(i, config->token.initializer, tokenizer, vocab));
}

/* -------------------------------------------------------------------------------- rows */

/* All rows become the mean of the tokens'. */
static struct error fill_mean(const struct initializer *i, const struct text_encoder *text, int64_t vectors,
                              float *rows)
{
    int64_t width = text->config.width;
    double *sum = memory_alloc(width, sizeof *sum);
    struct error e = sum ? ok() : error_memory("the initializer");
    for (int64_t k = 0; k < i->count && e.code == ERROR_NONE; k++) {
        e = text_encoder_row(text, i->ids[k], rows);
        for (int64_t c = 0; c < width; c++)
            sum[c] += (double)rows[c];
    }
    for (int64_t c = 0; c < vectors * width && sum; c++)
        rows[c] = (float)(sum[c % width] / (double)i->count);
    memory_free(sum);
    return e;
}

struct error initializer_rows(const struct initializer *i, const struct text_encoder *text, int64_t vectors,
                              float *rows)
{
    int64_t width = text->config.width;
    if (i->word.rows) {
        memcpy(rows, i->word.rows, (size_t)(vectors * width) * sizeof *rows);
        return ok();
    }
    if (i->count != vectors)
        return fill_mean(i, text, vectors, rows);
    for (int64_t k = 0; k < vectors; k++)
        TRY(text_encoder_row(text, i->ids[k], rows + k * width));
    return ok();
}

uint32_t initializer_sum(const struct initializer *i)
{
    return i->word.rows ? sum_of(&i->word) : fingerprint_bytes(0, i->ids, i->count * (int64_t)sizeof *i->ids);
}

void initializer_log(const struct initializer *i, const struct config *config)
{
    const char *text = config->token.initializer;
    long long vectors = (long long)config->token.vectors, count = (long long)i->count;
    if (i->word.rows)
        log_line("token.initializer: goes on from the word \"%.60s\" of %.200s, %lld vector%s", i->word.placeholder,
                 text, vectors, vectors == 1 ? "" : "s");
    else if (count > 1)
        log_line("token.initializer: \"%.100s\" is %lld tokens; %s", text, count,
                 count == vectors ? "each of the word's vectors starts from one"
                                  : "the word's vectors start from their mean");
}

void initializer_free(struct initializer *i)
{
    embedding_free(&i->word);
    memory_free(i->ids);
    *i = (struct initializer){0};
}
