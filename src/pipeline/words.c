#include "pipeline/words.h"

#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "model/embedding.h"
#include "text/captions.h"

/* -------------------------------------------------------------------------------- reading */

static struct error read_word(struct words *w, int64_t i, int64_t width)
{
    const char *file = w->files->items[i];
    struct embedding *word = &w->items[i];
    int32_t first;
    TRY(embedding_read(word, file));
    if (word->dim != width)
        return error_input("%s: the word is %lld wide, the model's text encoder %lld", file, (long long)word->dim,
                           (long long)width);
    TRY(error_in(embedding_add_tokens(w->tokenizer, word->placeholder, word->vectors, &first), "%s", file));
    w->vectors += word->vectors;
    return ok();
}

struct error words_read(struct words *w, const struct text_list *files, struct tokenizer *tokenizer, int64_t width)
{
    *w = (struct words){.first_id = tokenizer_size(tokenizer), .tokenizer = tokenizer, .files = files};
    w->items = memory_alloc(files->count, sizeof *w->items);
    w->named = memory_alloc(files->count, sizeof *w->named);
    if (!w->items || !w->named)
        return error_memory("learned words");
    for (int64_t i = 0; i < files->count; i++)
        TRY(read_word(w, i, width));
    float *to = w->rows = memory_alloc(w->vectors * width, sizeof *w->rows);
    if (!w->rows)
        return error_memory("learned words");
    for (int64_t i = 0; i < files->count; to += w->items[i++].vectors * width)
        memcpy(to, w->items[i].rows, (size_t)(w->items[i].vectors * width) * sizeof *to);
    return ok();
}

void words_free(struct words *w)
{
    for (int64_t i = 0; w->items && i < w->files->count; i++)
        embedding_free(&w->items[i]);
    memory_free(w->items);
    memory_free(w->named);
    memory_free(w->rows);
    *w = (struct words){0};
}

/* -------------------------------------------------------------------------------- prompts */

/* Every "sks" becomes "sks sks_1 sks_2", for a word of three vectors. */
static struct error spell_out(char **prompt, const struct embedding *word)
{
    char *words = captions_spell(word->placeholder, word->vectors);
    char *spelled = words ? text_replace(*prompt, word->placeholder, words) : NULL;
    memory_free(words);
    if (!spelled)
        return error_memory("the prompt");
    memory_free(*prompt);
    *prompt = spelled;
    return ok();
}

/* *found becomes true if the tokenizer finds a token in the text. */
static struct error find_token(const struct tokenizer *tokenizer, const char *text, int32_t token, bool *found)
{
    int64_t room = (int64_t)strlen(text) * 2 + 2, count = 0;
    int32_t *ids = memory_alloc(room, sizeof *ids);
    if (!ids)
        return error_memory("the prompt");
    struct error e = tokenizer_pieces(tokenizer, text, ids, room, &count);
    for (int64_t i = 0; i < count && i < room && e.code == ERROR_NONE; i++)
        *found = *found || ids[i] == token;
    memory_free(ids);
    return e;
}

struct error words_convert(struct words *w, const char *text, char **prompt)
{
    int32_t first = w->first_id;
    *prompt = memory_string(text);
    if (!*prompt)
        return error_memory("the prompt");
    for (int64_t i = 0; i < w->files->count; first += (int32_t)w->items[i++].vectors) {
        bool found = false;
        TRY(find_token(w->tokenizer, text, first, &found));
        w->named[i] = w->named[i] || found;
        if (found && w->items[i].vectors > 1)
            TRY(spell_out(prompt, &w->items[i]));
    }
    return ok();
}

void words_warn_unnamed(const struct words *w)
{
    for (int64_t i = 0; i < w->files->count; i++)
        if (!w->named[i])
            log_warning("the prompt does not contain \"%s\", the word of %s", w->items[i].placeholder,
                        w->files->items[i]);
}
