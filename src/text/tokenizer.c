#include "text/tokenizer.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/memory.h"
#include "files/file.h"
#include "text/vocabulary.h"

enum { FILE_LIMIT = 64 << 20, BYTES = 256 };

/* A word that is cut out of the text before anything else: `pattern` is matched in the raw text, or, where
 * `normalized`, the normalized pattern in the normalized text. */
struct added {
    char *pattern;
    int32_t id;
    bool normalized;
};

struct tokenizer {
    struct vocabulary vocabulary;
    int32_t size; /* ids in use, added words included */
    struct added *added;
    int64_t added_count, added_room;
    int32_t start, end, padding, unknown;
    int32_t byte_piece[BYTES], last_byte_piece[BYTES]; /* a byte inside a word, and as its last; -1: not a piece */
};

/* ---------------------------------------------------------------------------------------------------- characters */

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

static bool is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

enum kind { KIND_SPACE, KIND_LETTER, KIND_NUMBER, KIND_OTHER };

static enum kind kind_of(int32_t c)
{
    if (is_space(c))
        return KIND_SPACE;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return KIND_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return KIND_NUMBER;
    default:
        return KIND_OTHER;
    }
}

/* One character at `text`; the text is valid UTF-8. */
static int64_t read_character(const char *text, int32_t *c)
{
    return (int64_t)utf8proc_iterate((const utf8proc_uint8_t *)text, -1, c);
}

/* NFC, runs of white space to one blank, lower case. *out is memory_free'd. */
static struct error normalize(const char *text, char **out)
{
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)text, 0, &composed,
                                           UTF8PROC_NULLTERM | UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (length < 0)
        return error_input("\"%.100s\": is not valid UTF-8", text);
    char *to = memory_take(2 * (int64_t)length + 4, 1); // lower case grows a character by two bytes at most
    *out = to;
    bool blank = false;
    for (const char *at = (const char *)composed; to && *at;) {
        int32_t c;
        at += read_character(at, &c);
        if (is_space(c)) {
            if (!blank)
                *to++ = ' ';
            blank = true;
            continue;
        }
        blank = false;
        to += utf8proc_encode_char(c == 0x130 ? 'i' : utf8proc_tolower(c), (utf8proc_uint8_t *)to);
        if (c == 0x130) // the one character whose lower case is two: i and a dot above
            to += utf8proc_encode_char(0x307, (utf8proc_uint8_t *)to);
    }
    free(composed);
    return *out ? ok() : error_memory("a text");
}

/* ---------------------------------------------------------------------------------------------------- pieces */

struct ids {
    int32_t *items; /* room of them */
    int64_t room, count;
};

static void put(struct ids *ids, int32_t id)
{
    if (ids->count < ids->room)
        ids->items[ids->count] = id;
    ids->count++;
}

/* One word's bytes: pieces of one byte, then the pair of lowest rank is joined until none is left. */
static struct error split_word(const struct tokenizer *t, const char *word, int64_t length, struct ids *out)
{
    int32_t *pieces = memory_take(length, sizeof *pieces);
    if (!pieces)
        return error_memory("a word");
    for (int64_t i = 0; i < length; i++)
        pieces[i] = (i + 1 < length ? t->byte_piece : t->last_byte_piece)[(unsigned char)word[i]];
    for (;;) {
        const struct merge_slot *best = NULL;
        int64_t at = 0;
        for (int64_t i = 0; i + 1 < length; i++) {
            const struct merge_slot *m = vocabulary_merge(&t->vocabulary, pieces[i], pieces[i + 1]);
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
    for (int64_t i = 0; i < length; i++)
        put(out, pieces[i] >= 0 ? pieces[i] : t->unknown);
    memory_free(pieces);
    return ok();
}

/* Length of the contraction ('s, 't, 're, ...) that a text begins with, or 0. */
static int64_t contraction(const char *text, int64_t length)
{
    static const char *const all[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        int64_t size = (int64_t)strlen(all[i]);
        if (size <= length && strncmp(text, all[i], (size_t)size) == 0)
            return size;
    }
    return 0;
}

/* Normalized text without added words, cut by CLIP's pattern: contractions, runs of letters, single digits, runs of
 * what is neither letter, digit nor space. */
static struct error split_text(const struct tokenizer *t, const char *text, int64_t length, struct ids *out)
{
    for (int64_t at = 0; at < length;) {
        int32_t c;
        int64_t end = at + read_character(text + at, &c), size = contraction(text + at, length - at);
        enum kind kind = kind_of(c);
        if (size > 0)
            end = at + size;
        else if (kind == KIND_LETTER || kind == KIND_OTHER)
            for (int64_t more; end < length; end += more) {
                more = read_character(text + end, &c);
                if (kind_of(c) != kind)
                    break;
            }
        if (size > 0 || kind != KIND_SPACE)
            TRY(split_word(t, text + at, end - at, out));
        at = end;
    }
    return ok();
}

/* The longest added word of one sort at the beginning of a text, or NULL. */
static const struct added *added_at(const struct tokenizer *t, const char *text, int64_t length, bool normalized)
{
    const struct added *best = NULL;
    int64_t best_size = 0;
    for (int64_t i = 0; i < t->added_count; i++) {
        const struct added *a = &t->added[i];
        int64_t size = (int64_t)strlen(a->pattern);
        if (a->normalized == normalized && size > best_size && size <= length &&
            strncmp(text, a->pattern, (size_t)size) == 0) {
            best = a;
            best_size = size;
        }
    }
    return best;
}

/* Cuts added words of one sort out, leftmost and longest first; what lies between goes to rest. */
static struct error cut_words(const struct tokenizer *t, const char *text, int64_t length, bool normalized,
                              struct error (*rest)(const struct tokenizer *, const char *, int64_t, struct ids *),
                              struct ids *out)
{
    int64_t from = 0;
    for (int64_t at = 0; at < length;) {
        const struct added *a = added_at(t, text + at, length - at, normalized);
        if (!a) {
            at++;
            continue;
        }
        if (at > from)
            TRY(rest(t, text + from, at - from, out));
        put(out, a->id);
        at += (int64_t)strlen(a->pattern);
        from = at;
    }
    return length > from ? rest(t, text + from, length - from, out) : ok();
}

static struct error split_raw(const struct tokenizer *t, const char *text, int64_t length, struct ids *out)
{
    char *raw = memory_take(length + 1, 1), *normal;
    if (!raw)
        return error_memory("a text");
    memcpy(raw, text, (size_t)length);
    struct error e = normalize(raw, &normal);
    memory_free(raw);
    TRY(e);
    e = cut_words(t, normal, (int64_t)strlen(normal), true, split_text, out);
    memory_free(normal);
    return e;
}

struct error tokenizer_pieces(const struct tokenizer *t, const char *text, int32_t *ids, int64_t room, int64_t *count)
{
    struct ids out = {ids, room, 0};
    TRY(cut_words(t, text, (int64_t)strlen(text), false, split_raw, &out));
    *count = out.count;
    return ok();
}

struct error tokenizer_encode(const struct tokenizer *t, const char *text, int32_t *ids, int64_t length)
{
    int64_t count, room = length > 2 ? length - 2 : 0;
    TRY(tokenizer_pieces(t, text, ids + 1, room, &count));
    count = count < room ? count : room;
    ids[0] = t->start;
    if (length > 1)
        ids[count + 1] = t->end;
    for (int64_t i = count + 2; i < length; i++)
        ids[i] = t->padding;
    return ok();
}

/* ---------------------------------------------------------------------------------------------------- added words */

int32_t tokenizer_size(const struct tokenizer *t)
{
    return t->size;
}

static struct error add_pattern(struct tokenizer *t, const char *word, int32_t id, bool normalized)
{
    if (t->added_count == t->added_room) {
        int64_t room = t->added_room ? 2 * t->added_room : 16;
        struct added *more = memory_take(room, sizeof *more);
        if (!more)
            return error_memory("added words");
        if (t->added_count)
            memcpy(more, t->added, (size_t)t->added_count * sizeof *more);
        memory_free(t->added);
        t->added = more;
        t->added_room = room;
    }
    struct added a = {.id = id, .normalized = normalized};
    if (normalized)
        TRY(normalize(word, &a.pattern));
    else
        a.pattern = memory_string(word);
    if (!a.pattern)
        return error_memory("added words");
    t->added[t->added_count++] = a;
    if (id >= t->size)
        t->size = id + 1;
    return ok();
}

struct error tokenizer_add(struct tokenizer *t, const char *word, int32_t *id)
{
    if (!*word)
        return error_input("the word is empty");
    bool known = vocabulary_find(&t->vocabulary, word) >= 0;
    for (int64_t i = 0; i < t->added_count && !known; i++)
        known = strcmp(t->added[i].pattern, word) == 0;
    if (known)
        return error_input("\"%.100s\" is a token of this model already; choose another word", word);
    *id = t->size;
    return add_pattern(t, word, *id, true);
}

/* ---------------------------------------------------------------------------------------------------- loading */

/* A special token's text: a string, or an object with `content`. *normalized as the object says (default: `otherwise`).
 */
static const char *token_text(const cJSON *item, bool otherwise, bool *normalized)
{
    *normalized = otherwise;
    if (cJSON_IsString(item))
        return item->valuestring;
    const cJSON *flag = cJSON_GetObjectItemCaseSensitive(item, "normalized");
    if (cJSON_IsBool(flag))
        *normalized = cJSON_IsTrue(flag);
    const cJSON *content = cJSON_GetObjectItemCaseSensitive(item, "content");
    return cJSON_IsString(content) ? content->valuestring : NULL;
}

static bool has_pattern(const struct tokenizer *t, const char *word)
{
    for (int64_t i = 0; i < t->added_count; i++)
        if (strcmp(t->added[i].pattern, word) == 0)
            return true;
    return false;
}

/* The id of one of the four special tokens, which is also cut out of texts. */
static struct error read_special(struct tokenizer *t, const cJSON *config, const char *key, const char *fallback,
                                 const char *path, int32_t *id)
{
    bool normalized = false;
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(config, key);
    const char *text = item && !cJSON_IsNull(item) ? token_text(item, false, &normalized) : fallback;
    if (!text)
        return error_input("%s: %s: expected a token", path, key);
    *id = vocabulary_find(&t->vocabulary, text);
    for (int64_t i = 0; i < t->added_count && *id < 0; i++)
        if (strcmp(t->added[i].pattern, text) == 0)
            *id = t->added[i].id;
    if (*id < 0)
        return error_input("%s: %s: \"%.60s\" is not in the vocabulary", path, key, text);
    // whatever `normalized` says there, transformers cuts special tokens out of the raw text
    return has_pattern(t, text) ? ok() : add_pattern(t, text, *id, false);
}

static struct error read_added(struct tokenizer *t, const cJSON *item, const cJSON *id, const char *path)
{
    bool normalized;
    const char *text = token_text(item, true, &normalized);
    if (!text || !*text || !cJSON_IsNumber(id) || id->valuedouble != floor(id->valuedouble) || id->valuedouble < 0 ||
        id->valuedouble >= 1 << 24)
        return error_input("%s: added_tokens: expected objects with id and content", path);
    return has_pattern(t, text) ? ok()
                                : error_in(add_pattern(t, text, (int32_t)id->valuedouble, normalized), "%s", path);
}

/* Pieces for single bytes. */
static void find_bytes(struct tokenizer *t)
{
    for (int b = 0; b < BYTES; b++) {
        char name[16] = "";
        utf8proc_ssize_t size = utf8proc_encode_char(character_of_byte(b), (utf8proc_uint8_t *)name);
        t->byte_piece[b] = vocabulary_find(&t->vocabulary, name);
        memcpy(name + size, "</w>", 5);
        t->last_byte_piece[b] = vocabulary_find(&t->vocabulary, name);
    }
}

/* FOLDER/NAME as JSON; *root NULL where the file is not there. */
static struct error read_json(const char *folder, const char *name, char path[4096], cJSON **root)
{
    char *text;
    int64_t size;
    *root = NULL;
    TRY(path_join(path, folder, name));
    if (!file_exists(path))
        return ok();
    TRY(file_read(path, FILE_LIMIT, &text, &size));
    *root = cJSON_ParseWithLength(text, (size_t)size);
    memory_free(text);
    if (*root && cJSON_IsObject(*root))
        return ok();
    cJSON_Delete(*root);
    *root = NULL;
    return error_input("%s: is not a JSON object", path);
}

static struct error read_tables(struct tokenizer *t, const char *folder)
{
    char vocab[4096], path[4096];
    TRY(path_join(vocab, folder, "vocab.json"));
    if (file_exists(vocab))
        return vocabulary_read_files(&t->vocabulary, folder);
    cJSON *root;
    TRY(read_json(folder, "tokenizer.json", path, &root));
    if (!root)
        return error_input("%s: neither vocab.json with merges.txt nor tokenizer.json is here", folder);
    struct error e = vocabulary_read_model(&t->vocabulary, cJSON_GetObjectItemCaseSensitive(root, "model"), path);
    t->size = t->vocabulary.size;
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "added_tokens");
    for (const cJSON *item = list ? list->child : NULL; item && e.code == ERROR_NONE; item = item->next)
        e = read_added(t, item, cJSON_GetObjectItemCaseSensitive(item, "id"), path);
    cJSON_Delete(root);
    return e;
}

/* added_tokens_decoder of tokenizer_config.json: {"49406": {"content": ...}}. */
static struct error read_decoder(struct tokenizer *t, const cJSON *config, const char *path)
{
    const cJSON *decoder = cJSON_GetObjectItemCaseSensitive(config, "added_tokens_decoder");
    for (const cJSON *item = decoder ? decoder->child : NULL; item; item = item->next) {
        cJSON *id = item->string ? cJSON_CreateNumber(atof(item->string)) : NULL;
        struct error e = read_added(t, item, id, path);
        cJSON_Delete(id);
        TRY(e);
    }
    return ok();
}

static struct error load(struct tokenizer *t, const char *folder)
{
    static const char start[] = "<|startoftext|>", end[] = "<|endoftext|>";
    char path[4096];
    cJSON *config;
    TRY(read_tables(t, folder));
    if (t->vocabulary.size > t->size)
        t->size = t->vocabulary.size;
    find_bytes(t);
    TRY(read_json(folder, "tokenizer_config.json", path, &config));
    struct error e = config ? read_decoder(t, config, path) : ok();
    if (!config)
        TRY(path_join(path, folder, "vocab.json"));
    if (e.code == ERROR_NONE)
        e = read_special(t, config, "bos_token", start, path, &t->start);
    if (e.code == ERROR_NONE)
        e = read_special(t, config, "eos_token", end, path, &t->end);
    if (e.code == ERROR_NONE)
        e = read_special(t, config, "unk_token", end, path, &t->unknown);
    if (e.code == ERROR_NONE)
        e = read_special(t, config, "pad_token", end, path, &t->padding);
    cJSON_Delete(config);
    return e;
}

struct error tokenizer_load(struct tokenizer **tokenizer, const char *folder)
{
    struct tokenizer *t = memory_take(1, sizeof *t);
    if (!t)
        return error_memory("the tokenizer");
    struct error e = folder_exists(folder) ? load(t, folder) : error_input("%s: no such folder", folder);
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
    vocabulary_free(&t->vocabulary);
    for (int64_t i = 0; i < t->added_count; i++)
        memory_free(t->added[i].pattern);
    memory_free(t->added);
    memory_free(t);
}
