#include "text/special.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "files/file.h"
#include "files/json.h"

enum { ID_LIMIT = 1 << 24 };

/* In the order in which transformers adds them. */
static const struct named {
    const char *key, *fallback; /* fallback NULL: there may be none */
    int which;                  /* enum special, or -1: no special role, only a word to cut out */
} named[] = {
    {"bos_token", "<|startoftext|>", SPECIAL_START},
    {"eos_token", "<|endoftext|>", SPECIAL_END},
    {"unk_token", "<|endoftext|>", SPECIAL_UNKNOWN},
    {"sep_token", NULL, -1},
    {"pad_token", "<|endoftext|>", SPECIAL_PADDING},
    {"cls_token", NULL, -1},
    {"mask_token", NULL, -1},
};
enum { NAMED = sizeof named / sizeof *named };

/* What the folder's files say. The root of a missing file is NULL. */
struct settings {
    char config_path[PATH_SIZE], map_path[PATH_SIZE], words_path[PATH_SIZE];
    struct json config, map, words;
    const cJSON *tokenizer, *decoder;
};

/* A key of tokenizer_config.json, or of an older folder's special_tokens_map.json; NULL if it is absent or null. */
static const cJSON *setting(const struct settings *settings, const char *key, const char **path)
{
    const cJSON *value = settings->decoder ? NULL : cJSON_GetObjectItemCaseSensitive(settings->map.root, key);
    *path = settings->map_path;
    if (!value || cJSON_IsNull(value)) {
        value = cJSON_GetObjectItemCaseSensitive(settings->config.root, key);
        *path = settings->config_path;
    }
    return cJSON_IsNull(value) ? NULL : value;
}

/* -------------------------------------------------------------------------------- one token */

static struct error add_token(struct special_tokens *s, const char *text, int64_t id, bool normalized, const char *key)
{
    struct special_token *items = memory_grow(s->items, s->count, &s->room, sizeof *items);
    if (!items)
        return error_memory("added words");
    s->items = items;
    char *copy = memory_string(text);
    if (!copy)
        return error_memory("added words");
    s->items[s->count++] = (struct special_token){copy, id, normalized, key};
    return ok();
}

/* A token's text: the value itself, or its `content`. NULL if it is neither. */
static const char *text_of(const cJSON *value)
{
    const cJSON *text = cJSON_IsObject(value) ? cJSON_GetObjectItemCaseSensitive(value, "content") : value;
    return cJSON_IsString(text) && *text->valuestring ? text->valuestring : NULL;
}

/* Adds the token that a value describes. Special tokens are matched in the raw text unless the value says otherwise. */
static struct error add_value(struct special_tokens *s, const cJSON *value, int64_t id, bool special, const char *path,
                              const char *key)
{
    static const char *const refused[] = {"lstrip", "rstrip", "single_word"};
    const char *text = text_of(value);
    if (!text)
        return error_input("%s: %s: expected a token: a text, or an object with its content", path, key);
    if (cJSON_IsString(value))
        return add_token(s, text, id, !special, key);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(value, refused[i])))
            return error_input("%s: %s: \"%.60s\": %s is not supported, only false", path, key, text, refused[i]);
    const cJSON *normalized = cJSON_GetObjectItemCaseSensitive(value, "normalized");
    special = special || cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(value, "special"));
    return add_token(s, text, id, cJSON_IsBool(normalized) ? cJSON_IsTrue(normalized) : !special, key);
}

static struct error check_id(double id, const char *path, const char *key, const char *what)
{
    if (id != floor(id) || id < 0 || id >= ID_LIMIT)
        return error_input("%s: %s: \"%.60s\": expected an id from 0 to %d", path, key, what, ID_LIMIT - 1);
    return ok();
}

/* -------------------------------------------------------------------------------- added words */

/* {"49408": {"content": ...}} */
static struct error read_decoder(struct special_tokens *s, const struct settings *settings)
{
    static const char key[] = "added_tokens_decoder";
    if (!cJSON_IsObject(settings->decoder))
        return error_input("%s: %s: expected an object of ids and tokens", settings->config_path, key);
    for (const cJSON *item = settings->decoder->child; item; item = item->next) {
        char *end;
        double id = strtod(item->string, &end);
        TRY(check_id(*item->string && !*end ? id : -1, settings->config_path, key, item->string));
        TRY(add_value(s, item, (int64_t)id, false, settings->config_path, key));
    }
    return ok();
}

static bool is_named(const struct special_tokens *s, const char *text)
{
    for (int i = 0; i < SPECIAL_COUNT; i++)
        if (strcmp(s->names[i], text) == 0)
            return true;
    return false;
}

/* added_tokens.json: {"word": 49408} */
static struct error read_words(struct special_tokens *s, const struct settings *settings)
{
    for (const cJSON *item = settings->words.root ? settings->words.root->child : NULL; item; item = item->next) {
        TRY(check_id(cJSON_IsNumber(item) ? item->valuedouble : -1, settings->words_path, "added tokens",
                     item->string));
        if (*item->string)
            TRY(add_token(s, item->string, (int64_t)item->valuedouble, !is_named(s, item->string), "added tokens"));
    }
    return ok();
}

/* tokenizer.json: [{"id": 49408, "content": ...}] */
static struct error read_list(struct special_tokens *s, const struct settings *settings, const char *folder)
{
    static const char key[] = "added_tokens";
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(settings->tokenizer, key);
    if (!list)
        return ok();
    char path[PATH_SIZE];
    TRY(path_join(path, folder, "tokenizer.json"));
    if (!cJSON_IsArray(list))
        return error_input("%s: %s: expected a list of tokens", path, key);
    for (const cJSON *item = list->child; item; item = item->next) {
        const cJSON *id = cJSON_GetObjectItemCaseSensitive(item, "id");
        const char *text = text_of(item);
        TRY(check_id(cJSON_IsNumber(id) ? id->valuedouble : -1, path, key, text ? text : "?"));
        TRY(add_value(s, item, (int64_t)id->valuedouble, false, path, key));
    }
    return ok();
}

/* By id; texts with the same id stay in the order of the files, which is that of their addresses. */
static int by_id(const void *a, const void *b)
{
    const struct special_token *x = *(struct special_token *const *)a, *y = *(struct special_token *const *)b;
    return x->id != y->id ? (x->id > y->id) - (x->id < y->id) : (x > y) - (x < y);
}

/* Sorts the added words; of several with the same id, the last one counts. */
static struct error sort_words(struct special_tokens *s)
{
    const struct special_token **order = memory_alloc(s->count, sizeof *order);
    struct special_token *sorted = memory_alloc(s->room, sizeof *sorted);
    if (!order || !sorted) {
        memory_free(order);
        memory_free(sorted);
        return error_memory("added words");
    }
    for (int64_t i = 0; i < s->count; i++)
        order[i] = &s->items[i];
    qsort(order, (size_t)s->count, sizeof *order, by_id);
    int64_t kept = 0;
    for (int64_t i = 0; i < s->count; i++) {
        if (i + 1 < s->count && order[i]->id == order[i + 1]->id)
            memory_free(order[i]->text);
        else
            sorted[kept++] = *order[i];
    }
    memory_free(order);
    memory_free(s->items);
    s->items = sorted;
    s->count = kept;
    return ok();
}

/* -------------------------------------------------------------------------------- special tokens */

static struct error read_names(struct special_tokens *s, const struct settings *settings)
{
    for (int i = 0; i < NAMED; i++) {
        const char *path;
        const cJSON *value = setting(settings, named[i].key, &path);
        const char *text = value ? text_of(value) : named[i].fallback;
        if (value && !text)
            return error_input("%s: %s: expected a token: a text, or an object with its content", path, named[i].key);
        if (named[i].which < 0)
            continue;
        s->names[named[i].which] = memory_string(text);
        if (!s->names[named[i].which])
            return error_memory("special tokens");
    }
    return ok();
}

/* Is it among the first `count`, the added words? If so, they decide how it is matched. */
static bool is_added(const struct special_tokens *s, int64_t count, const char *text)
{
    for (int64_t i = 0; text && i < count; i++)
        if (strcmp(s->items[i].text, text) == 0)
            return true;
    return false;
}

static struct error read_special(struct special_tokens *s, const struct settings *settings)
{
    static const char *const more[] = {"extra_special_tokens", "additional_special_tokens"};
    int64_t added = s->count;
    const char *path;
    for (int i = 0; i < NAMED; i++) {
        const cJSON *value = setting(settings, named[i].key, &path);
        const char *text = value ? text_of(value) : named[i].fallback;
        if (!text || is_added(s, added, text))
            continue;
        TRY(value ? add_value(s, value, -1, true, path, named[i].key) : add_token(s, text, -1, false, named[i].key));
    }
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        const cJSON *list = setting(settings, more[i], &path);
        for (const cJSON *item = list ? list->child : NULL; item; item = item->next)
            if (!is_added(s, added, text_of(item)))
                TRY(add_value(s, item, -1, true, path, more[i]));
    }
    return ok();
}

/* -------------------------------------------------------------------------------- the folder */

static struct error open_settings(struct settings *settings, const char *folder)
{
    const struct {
        const char *name;
        char *path;
        struct json *json;
    } files[] = {{"tokenizer_config.json", settings->config_path, &settings->config},
                 {"special_tokens_map.json", settings->map_path, &settings->map},
                 {"added_tokens.json", settings->words_path, &settings->words}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        TRY(path_join(files[i].path, folder, files[i].name));
        enum path_kind kind;
        TRY(path_look(files[i].path, &kind));
        if (kind == PATH_FILE)
            TRY(json_open(files[i].json, files[i].path));
    }
    settings->decoder = cJSON_GetObjectItemCaseSensitive(settings->config.root, "added_tokens_decoder");
    return ok();
}

/* Folders without a limit leave it out, or name a number such as 1e30; old ones call it max_len. What tokenizer.json says of
 * truncation is not it: transformers does not take that for a limit. */
static struct error read_max_length(struct special_tokens *s, const struct settings *settings)
{
    bool old = !cJSON_HasObjectItem(settings->config.root, "model_max_length");
    const char *key = old ? "max_len" : "model_max_length";
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(settings->config.root, key);
    s->max_length = INT64_MAX;
    if (!value || cJSON_IsNull(value))
        return ok();
    if (!cJSON_IsNumber(value) || value->valuedouble < 2 || value->valuedouble != floor(value->valuedouble))
        return error_input("%s: %s: expected an integer from 2 on", settings->config_path, key);
    if (value->valuedouble < ID_LIMIT)
        s->max_length = (int64_t)value->valuedouble;
    return ok();
}

static struct error read_settings(struct special_tokens *s, const struct settings *settings, const char *folder)
{
    TRY(read_max_length(s, settings));
    TRY(read_names(s, settings));
    if (settings->decoder) {
        TRY(read_decoder(s, settings));
    } else {
        TRY(read_words(s, settings));
        TRY(read_list(s, settings, folder));
    }
    TRY(sort_words(s));
    return read_special(s, settings);
}

struct error special_tokens_read(struct special_tokens *s, const char *folder, const struct cJSON *tokenizer)
{
    *s = (struct special_tokens){0};
    struct settings *settings = memory_alloc(1, sizeof *settings);
    if (!settings)
        return error_memory("special tokens");
    settings->tokenizer = tokenizer;
    struct error e = open_settings(settings, folder);
    if (e.code == ERROR_NONE)
        e = read_settings(s, settings, folder);
    json_close(&settings->config);
    json_close(&settings->map);
    json_close(&settings->words);
    memory_free(settings);
    if (e.code != ERROR_NONE)
        special_tokens_free(s);
    return e;
}

void special_tokens_free(struct special_tokens *s)
{
    for (int64_t i = 0; i < s->count; i++)
        memory_free(s->items[i].text);
    memory_free(s->items);
    for (int i = 0; i < SPECIAL_COUNT; i++)
        memory_free(s->names[i]);
    *s = (struct special_tokens){0};
}
