#include "text/tokenizer.h"

#include <cjson/cJSON.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "files/file.h"
#include "files/json.h"
#include "text/added_words.h"
#include "text/characters.h"
#include "text/special.h"
#include "text/vocabulary.h"

enum { BYTES = 256, SHOWN = 200 }; /* SHOWN: bytes of a text in an error */

struct tokenizer {
    const struct vocabulary *vocabulary; /* its own, or a base's */
    struct vocabulary own;
    int32_t size;       /* ids in use, added words included */
    int32_t model_size; /* those of the model's folder */
    int64_t max_length;
    struct added_words added;
    int32_t special[SPECIAL_COUNT];
    int32_t byte_piece[BYTES], last_byte_piece[BYTES]; /* a byte inside a word, and as its last; -1: not a piece */
};

/* -------------------------------------------------------------------------------- pieces */

struct ids {
    int32_t *items; /* [room] */
    int64_t room, count;
};

static struct error append(struct ids *ids, int32_t id)
{
    int32_t *more = memory_grow(ids->items, ids->count, &ids->room, sizeof *more);
    if (!more)
        return error_memory("a text's ids");
    ids->items = more;
    ids->items[ids->count++] = id;
    return ok();
}

/* One word's bytes: starting from pieces of one byte, joins the pair of lowest rank until none is left. */
static struct error split_word(const struct tokenizer *t, const char *word, int64_t length, struct ids *out)
{
    int32_t *pieces = memory_alloc(length, sizeof *pieces);
    if (!pieces)
        return error_memory("a word");
    for (int64_t i = 0; i < length; i++)
        pieces[i] = (i + 1 < length ? t->byte_piece : t->last_byte_piece)[(unsigned char)word[i]];
    for (;;) {
        const struct merge *best = NULL;
        int64_t at = 0;
        for (int64_t i = 0; i + 1 < length; i++) {
            const struct merge *m = vocabulary_merge(t->vocabulary, pieces[i], pieces[i + 1]);
            if (m && (!best || m->rank < best->rank)) {
                best = m;
                at = i;
            }
        }
        if (!best)
            break;
        pieces[at] = best->result;
        memmove(pieces + at + 1, pieces + at + 2, (size_t)(length - at - 2) * sizeof *pieces);
        length--;
    }
    struct error e = ok();
    for (int64_t i = 0; i < length && e.code == ERROR_NONE; i++)
        e = append(out, pieces[i] >= 0 ? pieces[i] : t->special[SPECIAL_UNKNOWN]);
    memory_free(pieces);
    return e;
}

/* Length of the entry of `all` that a text begins with, or 0. */
static int64_t begins_with(const char *text, int64_t length, const char *const *all, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t size = (int64_t)strlen(all[i]);
        if (size <= length && strncmp(text, all[i], (size_t)size) == 0)
            return size;
    }
    return 0;
}

/* Length of the word that CLIP's pattern finds at the beginning of a text: a contraction, a run of letters, one digit,
 * a run of what is neither letter, digit nor space; 0 for a space. */
static int64_t word_length(const char *text, int64_t length)
{
    static const char *const contractions[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    int64_t size = begins_with(text, length, contractions, sizeof contractions / sizeof *contractions);
    if (size)
        return size;
    int32_t c;
    size = character_read(text, &c);
    enum character_kind kind = character_kind(c);
    if (kind == CHARACTER_SPACE || kind == CHARACTER_NUMBER)
        return kind == CHARACTER_NUMBER ? size : 0;
    for (int64_t more; size < length; size += more) {
        more = character_read(text + size, &c);
        if (character_kind(c) != kind)
            break;
    }
    return size;
}

/* Normalized text without added words, cut by CLIP's pattern. In that pattern the special tokens come first, so a word
 * ends after one even if it was not cut out (one typed in capitals appears only after normalizing); then it counts as
 * three words. */
static struct error split_text(const struct tokenizer *t, const char *text, int64_t length, struct ids *out)
{
    static const char *const specials[] = {"<|startoftext|>", "<|endoftext|>"};
    int64_t special_end = 0;
    for (int64_t at = 0, size; at < length; at += size) {
        if (at >= special_end)
            special_end = at + begins_with(text + at, length - at, specials, sizeof specials / sizeof *specials);
        size = word_length(text + at, (at < special_end ? special_end : length) - at);
        if (size)
            TRY(split_word(t, text + at, size, out));
        else
            size = 1; // a space: normalizing has made all of them blanks
    }
    return ok();
}

/* Cuts out added words of one kind, leftmost and longest first; the text between them goes to rest. */
static struct error cut_words(const struct tokenizer *t, const char *text, int64_t length, bool normalized,
                              struct error (*rest)(const struct tokenizer *, const char *, int64_t, struct ids *),
                              struct ids *out)
{
    int64_t from = 0;
    for (int64_t at = 0; at < length;) {
        const struct added_word *a = added_words_at(&t->added, text + at, length - at, normalized);
        if (!a) {
            at++;
            continue;
        }
        if (at > from)
            TRY(rest(t, text + from, at - from, out));
        TRY(append(out, a->id));
        at += (int64_t)strlen(a->pattern);
        from = at;
    }
    return length > from ? rest(t, text + from, length - from, out) : ok();
}

static struct error split_raw(const struct tokenizer *t, const char *text, int64_t length, struct ids *out)
{
    char *raw = memory_alloc(length + 1, 1), *normal;
    if (!raw)
        return error_memory("a text");
    memcpy(raw, text, (size_t)length);
    struct error e = characters_normalize(raw, &normal);
    memory_free(raw);
    TRY(e);
    e = cut_words(t, normal, (int64_t)strlen(normal), true, split_text, out);
    memory_free(normal);
    return e;
}

struct error tokenizer_pieces(const struct tokenizer *t, const char *text, int32_t *ids, int64_t room, int64_t *count)
{
    struct ids found = {0};
    struct error e = cut_words(t, text, (int64_t)strlen(text), false, split_raw, &found);
    if (e.code == ERROR_NONE)
        *count = added_words_spell_out(&t->added, found.items, found.count, ids, room);
    memory_free(found.items);
    return e;
}

static int64_t room_of(int64_t length)
{
    return length > 2 ? length - 2 : 0;
}

int64_t tokenizer_word_at(const struct tokenizer *t, const int32_t *ids, int64_t count)
{
    return added_words_at_ids(&t->added, ids, count);
}

void tokenizer_frame(const struct tokenizer *t, int32_t *ids, int64_t count, int64_t length)
{
    ids[0] = t->special[SPECIAL_START];
    if (length > 1)
        ids[count + 1] = t->special[SPECIAL_END];
    for (int64_t i = count + 2; i < length; i++)
        ids[i] = t->special[SPECIAL_PADDING];
}

struct error tokenizer_encode(const struct tokenizer *t, const char *text, int32_t *ids, int64_t length)
{
    int64_t count, room = room_of(length);
    TRY(tokenizer_pieces(t, text, ids + 1, room, &count));
    tokenizer_frame(t, ids, count < room ? count : room, length);
    return ok();
}

/* *fits: whether the first `bytes` of a text have no more ids than there is room for. */
static struct error beginning_fits(const struct tokenizer *t, const char *text, int64_t bytes, int64_t room, bool *fits)
{
    int64_t count = 0;
    char *beginning = memory_alloc(bytes + 1, 1);
    if (!beginning)
        return error_memory("a text");
    memcpy(beginning, text, (size_t)bytes);
    struct error e = tokenizer_pieces(t, beginning, NULL, 0, &count);
    memory_free(beginning);
    *fits = count <= room;
    return e;
}

/* The middle one of the words, or characters of words, that begin after `from` and before `to`, or -1. */
static int64_t find_middle(const char *text, int64_t from, int64_t to, bool characters)
{
    int64_t best = -1, middle = from + (to - from) / 2;
    bool blank = false;
    for (int64_t at = from; at < to && (best < 0 || at <= middle);) {
        int32_t c;
        int64_t size = character_read(text + at, &c);
        bool space = character_kind(c) == CHARACTER_SPACE;
        if (!space && (blank || (characters && at > from)))
            best = at;
        blank = space;
        at += size;
    }
    return best;
}

/* What ends at `from` fits, what ends at `to` does not: until no word, or no character, begins between them. */
static struct error find_cut(const struct tokenizer *t, const char *text, int64_t room, bool characters, int64_t *from,
                             int64_t *to)
{
    bool fits;
    for (int64_t middle; (middle = find_middle(text, *from, *to, characters)) >= 0;) {
        TRY(beginning_fits(t, text, middle, room, &fits));
        *(fits ? from : to) = middle;
    }
    return ok();
}

struct error tokenizer_check_length(const struct tokenizer *t, const char *text, int64_t length)
{
    int64_t from = 0, to = (int64_t)strlen(text), room = room_of(length);
    bool fits;
    TRY(beginning_fits(t, text, to, room, &fits));
    if (fits)
        return ok();
    TRY(find_cut(t, text, room, false, &from, &to));
    TRY(beginning_fits(t, text + from, to - from, room, &fits));
    if (!fits && to - from > room) // a shorter one is a word of many vectors
        TRY(find_cut(t, text, room, true, &from, &to));
    int shown = text_fitting(text + from, SHOWN);
    return error_input("is longer than the %lld tokens that count; left out: \"%.*s%s\"", (long long)length, shown,
                       text + from, text[from + shown] ? "..." : "");
}

/* -------------------------------------------------------------------------------- added words */

int32_t tokenizer_size(const struct tokenizer *t)
{
    return t->size;
}

int64_t tokenizer_length(const struct tokenizer *t, int64_t positions)
{
    return t->max_length < positions ? t->max_length : positions;
}

static struct error add_word(struct tokenizer *t, const char *word, int32_t id, bool normalized)
{
    TRY(added_words_put(&t->added, word, id, normalized));
    if (id >= t->size)
        t->size = id + 1;
    return ok();
}

/* An added word's or a piece's id, or -1. */
static int32_t find_id(const struct tokenizer *t, const char *word)
{
    const struct added_word *a = added_words_find(&t->added, word);
    return a ? a->id : vocabulary_find(t->vocabulary, word);
}

static struct error check_new(const struct tokenizer *t, const char *word)
{
    const struct added_word *like;
    TRY(added_words_like(&t->added, word, &like));
    if (like && strcmp(like->text, word) != 0)
        return error_input("\"%.100s\" is read like \"%.100s\", which is there already; choose another word", word,
                           like->text);
    if (like && like->id >= t->model_size)
        return error_input("\"%.100s\" is already a learned word; choose another word", word);
    if (like || vocabulary_find(t->vocabulary, word) >= 0)
        return error_input("\"%.100s\" is already a token of this model; choose another word", word);
    return ok();
}

struct error tokenizer_add(struct tokenizer *t, const char *word, int64_t vectors, int32_t *first)
{
    char name[ADDED_WORD_SIZE];
    if (!*word)
        return error_input("the word is empty");
    for (int64_t i = 0; i < vectors; i++) {
        TRY(added_words_name(name, word, i));
        TRY(check_new(t, name));
    }
    *first = t->size;
    for (int64_t i = 0; i < vectors; i++) {
        TRY(added_words_name(name, word, i));
        TRY(add_word(t, name, t->size, true));
        if (i > 0)
            TRY(added_words_extend(added_words_find(&t->added, word), *first + (int32_t)i));
    }
    return ok();
}

/* -------------------------------------------------------------------------------- loading */

/* The visible character that stands for a byte (GPT-2's bytes_to_unicode): itself where it is printable Latin-1, else
 * the next free one from 256 on. */
static int32_t character_of_byte(int byte)
{
    int32_t next = 256;
    for (int b = 0; b <= byte; b++) {
        bool itself = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
        if (b == byte)
            return itself ? b : next;
        next += !itself;
    }
    return 0;
}

/* Pieces for single bytes. */
static void find_bytes(struct tokenizer *t)
{
    for (int b = 0; b < BYTES; b++) {
        char name[16] = "";
        int64_t size = character_write(name, character_of_byte(b));
        t->byte_piece[b] = vocabulary_find(t->vocabulary, name);
        memcpy(name + size, "</w>", 5);
        t->last_byte_piece[b] = vocabulary_find(t->vocabulary, name);
    }
}

/* Gives added words their ids in order, as transformers does; special tokens must be in the vocabulary or among
 * them. */
static struct error add_special(struct tokenizer *t, const struct special_tokens *s, const char *folder)
{
    for (int64_t i = 0; i < s->count; i++) {
        const struct special_token *token = &s->items[i];
        int32_t id = find_id(t, token->text);
        if (id < 0 && token->id < 0)
            return error_input("%s: %s: \"%.60s\" is not in the vocabulary", folder, token->key, token->text);
        TRY(error_in(add_word(t, token->text, id < 0 ? t->size : id, token->normalized), "%s: %s", folder, token->key));
    }
    for (int i = 0; i < SPECIAL_COUNT; i++)
        t->special[i] = find_id(t, s->names[i]);
    return ok();
}

static struct error load_with(struct tokenizer *t, const char *folder, const struct json *json)
{
    TRY(json->root ? vocabulary_read_model(&t->own, json->root, json->path) : vocabulary_read_files(&t->own, folder));
    t->size = t->own.size;
    find_bytes(t);
    struct special_tokens s;
    TRY(special_tokens_read(&s, folder, json->root));
    t->max_length = s.max_length;
    struct error e = add_special(t, &s, folder);
    special_tokens_free(&s);
    if (e.code == ERROR_NONE)
        e = added_words_join(&t->added);
    t->model_size = t->size;
    return e;
}

/* If both generations are present, tokenizer.json takes precedence, as in transformers. */
static struct error load(struct tokenizer *t, const char *folder)
{
    char path[PATH_SIZE], vocab[PATH_SIZE];
    struct json json = {0};
    TRY(path_join(path, folder, "tokenizer.json"));
    TRY(path_join(vocab, folder, "vocab.json"));
    enum path_kind whole, parts;
    TRY(path_look(path, &whole));
    TRY(path_look(vocab, &parts));
    if (whole == PATH_FILE)
        TRY(json_open(&json, path));
    else if (parts != PATH_FILE)
        return error_input("%s: has neither vocab.json with merges.txt nor tokenizer.json", folder);
    struct error e = load_with(t, folder, &json);
    json_close(&json);
    return e;
}

struct error tokenizer_load(struct tokenizer **tokenizer, const char *folder)
{
    struct tokenizer *t = memory_alloc(1, sizeof *t);
    if (!t)
        return error_memory("the tokenizer");
    t->vocabulary = &t->own;
    enum path_kind kind;
    struct error e = path_look(folder, &kind);
    if (e.code == ERROR_NONE)
        e = kind == PATH_FOLDER ? load(t, folder) : error_input("%s: no such folder", folder);
    if (e.code != ERROR_NONE)
        tokenizer_free(t);
    else
        *tokenizer = t;
    return e;
}

struct error tokenizer_pad_with(struct tokenizer *t, const char *token)
{
    int32_t id = find_id(t, token);
    if (id < 0)
        return error_input("\"%.60s\" is not in the vocabulary", token);
    t->special[SPECIAL_PADDING] = id;
    return ok();
}

struct error tokenizer_derive(struct tokenizer **tokenizer, const struct tokenizer *base)
{
    struct tokenizer *t = memory_alloc(1, sizeof *t);
    if (!t)
        return error_memory("a tokenizer");
    *t = *base; // the base's vocabulary among the rest
    t->own = (struct vocabulary){0};
    t->added = (struct added_words){0};
    struct error e = added_words_copy(&t->added, &base->added);
    if (e.code != ERROR_NONE)
        tokenizer_free(t);
    else
        *tokenizer = t;
    return e;
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    vocabulary_free(&t->own);
    added_words_free(&t->added);
    memory_free(t);
}
