#include "text/added_words.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "text/characters.h"

void added_words_free(struct added_words *w)
{
    for (int64_t i = 0; i < w->count; i++) {
        memory_free(w->items[i].text);
        memory_free(w->items[i].pattern);
        memory_free(w->items[i].more);
    }
    memory_free(w->items);
    *w = (struct added_words){0};
}

/* -------------------------------------------------------------------------------- names */

struct added_word *added_words_find(const struct added_words *w, const char *text)
{
    for (int64_t i = 0; i < w->count; i++)
        if (strcmp(w->items[i].text, text) == 0)
            return &w->items[i];
    return NULL;
}

struct error added_words_like(const struct added_words *w, const char *text, const struct added_word **like)
{
    char *pattern;
    TRY(characters_normalize(text, &pattern));
    *like = added_words_find(w, text);
    for (int64_t i = 0; i < w->count && !*like; i++)
        if (w->items[i].normalized && strcmp(w->items[i].pattern, pattern) == 0)
            *like = &w->items[i];
    memory_free(pattern);
    return ok();
}

struct error added_words_put(struct added_words *w, const char *text, int32_t id, bool normalized)
{
    struct added_word *a = added_words_find(w, text);
    if (!a) {
        struct added_word *more = memory_grow(w->items, w->count, &w->room, sizeof *more);
        if (!more)
            return error_memory("added words");
        w->items = more;
        a = &w->items[w->count];
        *a = (struct added_word){.text = memory_string(text)};
        if (!a->text)
            return error_memory("added words");
        w->count++;
    }
    memory_free(a->pattern);
    a->id = id;
    a->normalized = normalized;
    a->pattern = NULL;
    if (normalized)
        TRY(characters_normalize(text, &a->pattern));
    else
        a->pattern = memory_string(text);
    return a->pattern ? ok() : error_memory("added words");
}

/* -------------------------------------------------------------------------------- several vectors */

struct error added_words_extend(struct added_word *word, int32_t id)
{
    int32_t *more = memory_grow(word->more, word->more_count, &word->more_room, sizeof *more);
    if (!more)
        return error_memory("added words");
    word->more = more;
    word->more[word->more_count++] = id;
    return ok();
}

struct error added_words_name(char name[ADDED_WORD_SIZE], const char *word, int64_t i)
{
    int size = i ? snprintf(name, ADDED_WORD_SIZE, "%s_%lld", word, (long long)i)
                 : snprintf(name, ADDED_WORD_SIZE, "%s", word);
    return size < ADDED_WORD_SIZE ? ok() : error_input("the word is too long");
}

struct error added_words_join(struct added_words *w)
{
    char name[ADDED_WORD_SIZE];
    for (int64_t i = 0; i < w->count; i++) {
        struct added_word *a = &w->items[i];
        const struct added_word *next;
        for (int64_t k = 1; added_words_name(name, a->text, k).code == ERROR_NONE && (next = added_words_find(w, name));
             k++)
            TRY(added_words_extend(a, next->id));
    }
    return ok();
}

struct error added_words_copy(struct added_words *w, const struct added_words *from)
{
    for (int64_t i = 0; i < from->count; i++) {
        const struct added_word *a = &from->items[i];
        TRY(added_words_put(w, a->text, a->id, a->normalized));
        for (int64_t k = 0; k < a->more_count; k++)
            TRY(added_words_extend(&w->items[w->count - 1], a->more[k]));
    }
    return ok();
}

/* -------------------------------------------------------------------------------- texts */

const struct added_word *added_words_at(const struct added_words *w, const char *text, int64_t length, bool normalized)
{
    const struct added_word *best = NULL;
    int64_t best_size = 0;
    for (int64_t i = 0; i < w->count; i++) {
        const struct added_word *a = &w->items[i];
        int64_t size = (int64_t)strlen(a->pattern);
        if (a->normalized == normalized && size > best_size && size <= length &&
            strncmp(text, a->pattern, (size_t)size) == 0) {
            best = a;
            best_size = size;
        }
    }
    return best;
}

/* The word of several vectors with that id, or NULL. */
static const struct added_word *several(const struct added_words *w, int32_t id)
{
    for (int64_t i = 0; i < w->count; i++)
        if (w->items[i].more_count && w->items[i].id == id)
            return &w->items[i];
    return NULL;
}

int64_t added_words_at_ids(const struct added_words *w, const int32_t *ids, int64_t count)
{
    const struct added_word *a = several(w, ids[0]);
    int64_t more = a ? a->more_count : 0;
    return more < count && more && memcmp(ids + 1, a->more, (size_t)more * sizeof *a->more) == 0 ? more + 1 : 1;
}

int64_t added_words_spell_out(const struct added_words *w, const int32_t *found, int64_t found_count, int32_t *ids,
                              int64_t room)
{
    int64_t count = 0;
    for (int64_t i = 0; i < found_count; i++) {
        const struct added_word *a = several(w, found[i]);
        int64_t more = a ? a->more_count : 0;
        for (int64_t k = 0; k <= more; k++, count++)
            if (count < room)
                ids[count] = k ? a->more[k - 1] : found[i];
        i += added_words_at_ids(w, found + i, found_count - i) - 1;
    }
    return count;
}
