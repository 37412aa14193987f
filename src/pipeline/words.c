#include "pipeline/words.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "files/sha256.h"
#include "model/embedding.h"

struct word {
    const char *file; /* borrowed */
    struct embedding learned;
    int32_t first_id;
    bool named; /* by a prompt */
};

/* -------------------------------------------------------------------------------- reading */

/* *name: a copy of the WORD of "WORD=FILE", if the source is that; else NULL. */
static struct error read_name(const char *source, char **name, const char **file)
{
    const char *equals = strchr(source, '='), *slash = strchr(source, '/');
    *name = NULL;
    *file = source;
    if (!equals || equals == source || (slash && slash < equals) || access(source, F_OK) == 0)
        return ok();
    *file = equals + 1;
    *name = memory_string(source);
    if (!*name)
        return error_memory("learned words");
    (*name)[equals - source] = 0;
    if (!**file)
        return error_input("--embedding: \"%.100s\": expected a file after the =", source);
    return text_has_blank(*name)
               ? error_input("--embedding: \"%.100s\" contains white space, expected one word before the =", *name)
               : ok();
}

/* name: what to call the word, taken over; NULL: what the file calls it. */
static struct error add_file(struct words *w, struct word *word, char *name, int64_t width)
{
    struct embedding *e = &word->learned;
    if (name) {
        memory_free(e->placeholder);
        e->placeholder = name;
    }
    if (e->dim != width)
        return error_input("%s: the word is %lld wide, the model's text encoder %lld", word->file, (long long)e->dim,
                           (long long)width);
    struct error error = tokenizer_add(w->tokenizer, e->placeholder, e->vectors, &word->first_id);
    if (error.code == ERROR_BAD_INPUT)
        return error_input("%s: %s: --embedding WORD=FILE", word->file, error.text);
    w->vectors += e->vectors;
    return error;
}

static struct error read_word(struct words *w, struct word *word, const char *source, int64_t width)
{
    char *name;
    struct error e = read_name(source, &name, &word->file);
    if (e.code == ERROR_NONE) {
        e = embedding_read(&word->learned, word->file);
        e = name ? error_in(e, "--embedding %s", source) : e;
    }
    if (e.code == ERROR_NONE)
        return add_file(w, word, name, width);
    memory_free(name);
    return e;
}

struct error words_read(struct words *w, const struct text_list *sources, struct tokenizer *tokenizer, int64_t width)
{
    *w = (struct words){.first_id = tokenizer_size(tokenizer), .tokenizer = tokenizer};
    w->items = memory_alloc(sources->count, sizeof *w->items);
    if (!w->items)
        return error_memory("learned words");
    for (w->count = 0; w->count < sources->count;) {
        const char *source = sources->items[w->count];
        TRY(read_word(w, &w->items[w->count++], source, width));
    }
    float *to = w->rows = memory_alloc(w->vectors * width, sizeof *w->rows);
    if (!w->rows)
        return error_memory("learned words");
    for (int64_t i = 0; i < w->count; to += w->items[i++].learned.vectors * width)
        memcpy(to, w->items[i].learned.rows, (size_t)(w->items[i].learned.vectors * width) * sizeof *to);
    return ok();
}

void words_free(struct words *w)
{
    for (int64_t i = 0; i < w->count; i++)
        embedding_free(&w->items[i].learned);
    memory_free(w->items);
    memory_free(w->rows);
    *w = (struct words){0};
}

/* -------------------------------------------------------------------------------- prompts */

/* Whether all vectors of a word stand one after another among the ids. */
static bool is_whole(const struct word *word, const int32_t *ids, int64_t length)
{
    int64_t seen = 0;
    for (int64_t i = 0; i < length && seen < word->learned.vectors; i++)
        seen = ids[i] == word->first_id + seen ? seen + 1 : ids[i] == word->first_id;
    return seen == word->learned.vectors;
}

void words_mark(struct words *w, const int32_t *ids, int64_t length)
{
    for (int64_t i = 0; i < w->count; i++)
        w->items[i].named = w->items[i].named || is_whole(&w->items[i], ids, length);
}

struct error words_encode(struct words *w, const char *option, const char *prompt, int32_t *ids, int64_t length)
{
    TRY(error_in(tokenizer_encode(w->tokenizer, prompt, ids, length), "%s", option));
    struct error cut = error_in(tokenizer_check_length(w->tokenizer, prompt, length), "%s", option);
    if (cut.code == ERROR_BAD_INPUT)
        log_warning("%s", cut.text);
    else
        TRY(cut);
    w->limit = cut.code != ERROR_NONE ? length : w->limit;
    words_mark(w, ids, length);
    return ok();
}

void words_warn_unnamed(const struct words *w)
{
    char where[64] = "the prompt does";
    if (w->limit)
        snprintf(where, sizeof where, "the first %lld tokens of the prompt do", (long long)w->limit);
    for (int64_t i = 0; i < w->count; i++)
        if (!w->items[i].named)
            log_warning("%s not contain \"%s\", the word of %s", where, w->items[i].learned.placeholder,
                        w->items[i].file);
}

struct error words_hashes(const struct words *w, char **text)
{
    char hash[SHA256_TEXT];
    int64_t size = 1;
    for (int64_t i = 0; i < w->count; i++)
        size += (int64_t)strlen(w->items[i].learned.placeholder) + WORD_HASH + 4;
    char *to = *text = memory_alloc(size, 1);
    if (!to)
        return error_memory("the words' names");
    for (int64_t i = 0; i < w->count; i++) {
        const struct word *word = &w->items[i];
        if (!word->named)
            continue;
        TRY(sha256_file(hash, word->file));
        to += snprintf(to, (size_t)(*text + size - to), "%s%s: %.*s", to > *text ? ", " : "", word->learned.placeholder,
                       WORD_HASH, hash);
    }
    return ok();
}
