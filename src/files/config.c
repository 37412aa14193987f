#include "files/config.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/lr_schedule.h"
#include "base/memory.h"
#include "files/config_keys.h"
#include "files/file.h"

enum { FILE_LIMIT = 16 << 20 };

static void *field(const struct config *config, const struct key *key)
{
    return (char *)config + key->offset;
}

/* -------------------------------------------------------------------------------- what is wrong with a value */

static void expect(char out[256], const struct key *key)
{
    switch (key->kind) {
    case INTEGER:
        snprintf(out, 256, "a whole number from %.16g to %.16g", key->low, key->high);
        break;
    case PAIR:
        snprintf(out, 256, "a list of two whole numbers from %.16g to %.16g", key->low, key->high);
        break;
    case NUMBER:
        snprintf(out, 256, "a number from %.16g to %.16g", key->low, key->high);
        break;
    case BOOLEAN:
        snprintf(out, 256, "true or false");
        break;
    case TEXT:
        snprintf(out, 256, "a text of 1 to %d bytes", CONFIG_TEXT_LIMIT);
        break;
    case TEXTS:
        snprintf(out, 256, "a text, or a list of %.16g to %.16g texts, of 1 to %d bytes each", key->low, key->high,
                 CONFIG_TEXT_LIMIT);
        break;
    case NAME:
    case POSITION:
        out[0] = 0;
        for (int i = 0; config_key_value(key, i); i++) {
            size_t used = strlen(out);
            const char *before = i == 0 ? "" : config_key_value(key, i + 1) ? ", " : " or ";
            snprintf(out + used, 256 - used, "%s\"%s\"", before, config_key_value(key, i));
        }
        break;
    }
}

/* "is VALUE, expected ..." */
static struct error unexpected(const struct key *key, const cJSON *value)
{
    char expected[256];
    expect(expected, key);
    if (cJSON_IsArray(value))
        return error_input("is a list of %d, expected %s", cJSON_GetArraySize(value), expected);
    if (cJSON_IsObject(value))
        return error_input("is an object, expected %s", expected);
    if (cJSON_IsString(value))
        return error_input("is \"%.60s\", expected %s", value->valuestring, expected);
    if (cJSON_IsNumber(value))
        return error_input("is %.15g, expected %s", value->valuedouble, expected);
    return error_input("is %s, expected %s", cJSON_IsBool(value) ? cJSON_IsTrue(value) ? "true" : "false" : "null",
                       expected);
}

/* -------------------------------------------------------------------------------- from JSON to the field */

static bool number_fits(const struct key *key, const cJSON *value, bool whole)
{
    return cJSON_IsNumber(value) && isfinite(value->valuedouble) && value->valuedouble >= key->low &&
           value->valuedouble <= key->high && (!whole || value->valuedouble == floor(value->valuedouble));
}

static bool text_fits(const cJSON *value)
{
    return cJSON_IsString(value) && value->valuestring[0] && strlen(value->valuestring) <= CONFIG_TEXT_LIMIT;
}

static void texts_free(struct texts *texts)
{
    for (int64_t i = 0; i < texts->count; i++)
        memory_free(texts->items[i]);
    memory_free(texts->items);
    *texts = (struct texts){0};
}

static struct error set_text(char **text, const struct key *key, const cJSON *value)
{
    if (!text_fits(value))
        return unexpected(key, value);
    memory_free(*text);
    *text = memory_string(value->valuestring);
    return *text ? ok() : error_memory(key->name);
}

static struct error set_texts(struct texts *texts, const struct key *key, const cJSON *value)
{
    const cJSON *first = cJSON_IsArray(value) ? value->child : value;
    int64_t count = cJSON_IsArray(value) ? cJSON_GetArraySize(value) : 1;
    if ((double)count < key->low || (double)count > key->high)
        return unexpected(key, value);
    texts_free(texts);
    texts->items = memory_alloc(count, sizeof *texts->items);
    if (!texts->items)
        return error_memory(key->name);
    texts->count = count;
    int64_t i = 0;
    for (const cJSON *item = first; i < count; item = item->next, i++)
        TRY(set_text(&texts->items[i], key, item));
    return ok();
}

static struct error set_pair(int64_t *pair, const struct key *key, const cJSON *value)
{
    if (!cJSON_IsArray(value) || cJSON_GetArraySize(value) != 2)
        return unexpected(key, value);
    const cJSON *item = value->child;
    for (int i = 0; i < 2; i++, item = item->next) {
        if (!number_fits(key, item, true))
            return unexpected(key, item);
        pair[i] = (int64_t)item->valuedouble;
    }
    return ok();
}

static int name_position(const struct key *key, const cJSON *value)
{
    for (int i = 0; cJSON_IsString(value) && config_key_value(key, i); i++)
        if (strcmp(config_key_value(key, i), value->valuestring) == 0)
            return i;
    return -1;
}

static struct error set_value(struct config *config, const struct key *key, const cJSON *value)
{
    void *to = field(config, key);
    int position;
    switch (key->kind) {
    case INTEGER:
        if (!number_fits(key, value, true))
            return unexpected(key, value);
        *(int64_t *)to = (int64_t)value->valuedouble;
        return ok();
    case NUMBER:
        if (!number_fits(key, value, false))
            return unexpected(key, value);
        *(double *)to = value->valuedouble;
        return ok();
    case BOOLEAN:
        if (!cJSON_IsBool(value))
            return unexpected(key, value);
        *(bool *)to = cJSON_IsTrue(value);
        return ok();
    case PAIR:
        return set_pair(to, key, value);
    case TEXT:
        return set_text(to, key, value);
    case TEXTS:
        return set_texts(to, key, value);
    case NAME:
    case POSITION:
        position = name_position(key, value);
        if (position < 0)
            return unexpected(key, value);
        if (key->kind == NAME)
            *(const char **)to = config_key_value(key, position);
        else
            *(unsigned *)to = (unsigned)position;
        return ok();
    }
    return ok();
}

static void clear_value(struct config *config, const struct key *key)
{
    void *to = field(config, key);
    if (key->kind == TEXTS)
        texts_free(to);
    if (key->kind == TEXT) {
        memory_free(*(char **)to);
        *(char **)to = NULL;
    }
}

/* -------------------------------------------------------------------------------- layers: files, --set, defaults */

static struct error unknown_key(const char *source, const char *name, bool group)
{
    char near[CONFIG_NAME_LIMIT];
    const char *meant = group ? config_meant_group(near, name) ? near : NULL : config_meant(name);
    return meant ? error_input("%s: %.80s: unknown key; did you mean %s?", source, name, meant)
                 : error_input("%s: %.80s: unknown key; zoodip train --help lists them all", source, name);
}

struct layer {
    struct config *config;
    const char *source;      /* for the errors */
    int64_t number;          /* of that source among the config's */
    bool given[CONFIG_KEYS]; /* keys that this layer has named */
    bool *set;               /* [CONFIG_KEYS] keys that any layer has given a value */
};

static struct error layer_key(struct layer *layer, const struct key *key, const cJSON *value)
{
    int64_t index = key - config_keys;
    if (layer->given[index])
        return error_input("%s: %s: is given twice", layer->source, key->name);
    layer->given[index] = true;
    layer->config->source_of[index] = (unsigned char)layer->number;
    if (cJSON_IsNull(value)) { /* as if it were missing */
        layer->set[index] = false;
        clear_value(layer->config, key);
        return ok();
    }
    TRY(error_in(set_value(layer->config, key, value), "%s: %s", layer->source, key->name));
    layer->set[index] = true;
    if (key->check)
        TRY(error_in(key->check(layer->config), "%s: %s", layer->source, key->name));
    return ok();
}

static bool is_repeated(const cJSON *object, const cJSON *child)
{
    for (const cJSON *other = object->child; other != child; other = other->next)
        if (strcmp(other->string, child->string) == 0)
            return true;
    return false;
}

/* prefix: "" for the whole file, "zo." for a group. Groups hold no groups, so this nests once. */
static struct error layer_object(struct layer *layer, const cJSON *object, const char *prefix)
{
    for (const cJSON *child = object->child; child; child = child->next) {
        char name[CONFIG_NAME_LIMIT];
        snprintf(name, sizeof name, "%s%s", prefix, child->string);
        const struct key *key = config_key_find(name);
        if (!key && !config_is_group(name))
            return unknown_key(layer->source, name, cJSON_IsObject(child));
        if (is_repeated(object, child))
            return error_input("%s: %s: is given twice", layer->source, name);
        if (key) {
            TRY(layer_key(layer, key, child));
            continue;
        }
        if (!cJSON_IsObject(child))
            return error_input("%s: %s: expected an object with the keys %s.*", layer->source, name, name);
        char inner[CONFIG_NAME_LIMIT + 1];
        snprintf(inner, sizeof inner, "%s.", name);
        TRY(layer_object(layer, child, inner));
    }
    return ok();
}

/* -------------------------------------------------------------------------------- text to JSON */

/* Where a place in a text is: "line 3, column 7". */
static void show_place(char out[64], const char *text, const char *place)
{
    long long line = 1, column = 1;
    for (const char *at = text; at < place; at++) {
        column = *at == '\n' ? 1 : column + 1;
        line += *at == '\n';
    }
    snprintf(out, 64, "line %lld, column %lld", line, column);
}

static struct error check_encoding(const char *source, const char *text, int64_t size)
{
    char place[64];
    for (int64_t at = 0; at < size;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t taken = utf8proc_iterate((const utf8proc_uint8_t *)text + at, size - at, &code);
        if (taken <= 0 || code == 0) {
            show_place(place, text, text + at);
            return error_input("%s: %s: is not UTF-8 text", source, place);
        }
        at += taken;
    }
    return ok();
}

struct error config_parse(cJSON **root, const char *source, const char *text, int64_t size)
{
    *root = NULL;
    TRY(check_encoding(source, text, size));
    if (strspn(text, " \t\r\n") == (size_t)size)
        return error_input("%s: is empty, expected a JSON object", source);
    const char *end = text;
    char place[64];
    *root = cJSON_ParseWithLengthOpts(text, (size_t)size + 1, &end, true);
    show_place(place, text, end);
    if (!*root)
        return error_input("%s: %s: is not valid JSON", source, place);
    if (cJSON_IsObject(*root))
        return ok();
    cJSON_Delete(*root);
    return error_input("%s: expected a JSON object, {\"key\": value, ...}", source);
}

/* The value of KEY=VALUE: JSON; but if the key takes a text, anything that is not a JSON text is that text itself. */
static cJSON *parse_value(const struct key *key, const char *text)
{
    cJSON *value = cJSON_ParseWithOpts(text, NULL, true);
    bool texts = key && (key->kind == TEXT || key->kind == TEXTS);
    bool as_it_is = !value || (texts && (cJSON_IsNumber(value) || cJSON_IsBool(value)));
    if (!as_it_is)
        return value;
    cJSON_Delete(value);
    return cJSON_CreateString(text);
}

static struct error read_set(struct layer *layer, const char *set)
{
    TRY(check_encoding(layer->source, set, (int64_t)strlen(set)));
    const char *equals = strchr(set, '=');
    if (!equals || equals == set || equals - set >= CONFIG_NAME_LIMIT)
        return error_input("%s: %.80s: expected KEY=VALUE, such as zo.n=4", layer->source, set);
    char name[CONFIG_NAME_LIMIT];
    snprintf(name, sizeof name, "%.*s", (int)(equals - set), set);
    cJSON *root = cJSON_CreateObject();
    cJSON *value = parse_value(config_key_find(name), equals + 1);
    if (!root || !value || !cJSON_AddItemToObject(root, name, value)) {
        cJSON_Delete(root);
        cJSON_Delete(value);
        return error_memory("--set");
    }
    struct error e = layer_object(layer, root, "");
    cJSON_Delete(root);
    return e;
}

struct error config_blame(const struct config *config, const char *key, struct error e)
{
    const struct key *k = config_key_find(key);
    if (!k || config->sources.count == 0) // a config that was not read but made
        return error_in(e, "%s", key);
    return error_in(e, "%s: %s", config->sources.items[config->source_of[k - config_keys]], key);
}

static struct error fill_default(struct config *config, const struct key *key)
{
    if (!key->fallback)
        return error_input("is missing, expected %s", key->meaning);
    cJSON *value = cJSON_Parse(key->fallback);
    if (!value)
        return error_memory("a default");
    struct error e = cJSON_IsNull(value) ? ok() : set_value(config, key, value);
    cJSON_Delete(value);
    return e;
}

static struct error fill_defaults(struct config *config, const bool *set)
{
    for (int i = 0; i < CONFIG_KEYS; i++)
        if (!set[i])
            TRY(config_blame(config, config_keys[i].name, fill_default(config, &config_keys[i])));
    return ok();
}

static struct error check_together(const struct config *config)
{
    if (config->use_cc && !config->data.captions)
        return config_blame(config, "use_cc",
                            error_input("is true, expected data.captions to name the captions' file"));
    return ok();
}

/* The layers' names and --set become the sources; keys that no layer names are blamed on the last layer. */
static struct error name_sources(struct config *config, const struct config_layer *layers, int64_t layer_count)
{
    struct texts *sources = &config->sources;
    sources->items = memory_alloc(layer_count + 1, sizeof *sources->items);
    if (!sources->items)
        return error_memory("a config");
    for (; sources->count <= layer_count; sources->count++) {
        char *name = memory_string(sources->count < layer_count ? layers[sources->count].source : "--set");
        if (!name)
            return error_memory("a config");
        sources->items[sources->count] = name;
    }
    memset(config->source_of, (int)layer_count - 1, sizeof config->source_of);
    return ok();
}

/* set [CONFIG_KEYS] becomes the keys that have a value. */
static struct error read_layers(struct config *config, bool *set, const struct config_layer *layers,
                                int64_t layer_count, const struct text_list *sets)
{
    TRY(name_sources(config, layers, layer_count));
    for (int64_t i = 0; i < layer_count; i++) {
        struct layer layer = {.config = config, .source = layers[i].source, .number = i, .set = set};
        TRY(layer_object(&layer, layers[i].object, ""));
    }
    for (int64_t i = 0; i < sets->count; i++) {
        struct layer argument = {.config = config, .source = "--set", .number = layer_count, .set = set};
        TRY(read_set(&argument, sets->items[i]));
    }
    return ok();
}

struct error config_layers(struct config *config, const struct config_layer *layers, int64_t layer_count,
                           const struct text_list *sets)
{
    *config = (struct config){0};
    bool set[CONFIG_KEYS] = {false};
    struct error e = read_layers(config, set, layers, layer_count, sets);
    if (e.code == ERROR_NONE)
        e = fill_defaults(config, set);
    if (e.code == ERROR_NONE)
        e = check_together(config);
    if (e.code != ERROR_NONE)
        config_free(config);
    return e;
}

struct error config_check(const struct config_layer *layers, int64_t layer_count, const struct text_list *sets)
{
    struct config config = {0};
    bool set[CONFIG_KEYS] = {false};
    struct error e = read_layers(&config, set, layers, layer_count, sets);
    config_free(&config);
    return e;
}

struct error config_read(struct config *config, const char *path, const struct text_list *sets)
{
    *config = (struct config){0};
    char *text;
    int64_t size;
    cJSON *root;
    TRY(file_read(path, FILE_LIMIT, &text, &size));
    struct error e = config_parse(&root, path, text, size);
    memory_free(text);
    TRY(e);
    const struct config_layer file = {root, path};
    if (cJSON_GetObjectItemCaseSensitive(root, "jobs"))
        e = error_input("%s: is a jobs file, for zoodip run; expected a config", path);
    else
        e = config_layers(config, &file, 1, sets);
    cJSON_Delete(root);
    return e;
}

void config_free(struct config *config)
{
    texts_free(&config->sources);
    for (int i = 0; i < CONFIG_KEYS; i++)
        clear_value(config, &config_keys[i]);
}

static struct error copy_sources(struct config *to, const struct config *from)
{
    texts_free(&to->sources);
    to->sources.items = memory_alloc(from->sources.count, sizeof *to->sources.items);
    if (!to->sources.items)
        return error_memory("a config");
    for (; to->sources.count < from->sources.count; to->sources.count++) {
        char *name = memory_string(from->sources.items[to->sources.count]);
        if (!name)
            return error_memory("a config");
        to->sources.items[to->sources.count] = name;
    }
    memcpy(to->source_of, from->source_of, sizeof to->source_of);
    return ok();
}

struct error config_copy(struct config *to, const struct config *from)
{
    char *text = config_json(from);
    *to = (struct config){0};
    if (!text)
        return error_memory("a config");
    cJSON *root;
    struct error e = config_parse(&root, "config", text, (int64_t)strlen(text));
    memory_free(text);
    TRY(e);
    const struct config_layer layer = {root, "config"};
    e = config_layers(to, &layer, 1, &(struct text_list){0});
    cJSON_Delete(root);
    if (e.code == ERROR_NONE)
        e = copy_sources(to, from);
    if (e.code != ERROR_NONE)
        config_free(to);
    return e;
}

/* -------------------------------------------------------------------------------- from the fields back to JSON */

/* The fewest digits that read back as the same number: cJSON's own printing may round the 16th digit. */
static cJSON *number_json(double value)
{
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    return cJSON_CreateRaw(text);
}

static cJSON *pair_json(const int64_t pair[2])
{
    char text[64];
    snprintf(text, sizeof text, "[%lld, %lld]", (long long)pair[0], (long long)pair[1]);
    return cJSON_CreateRaw(text);
}

static cJSON *value_json(const struct config *config, const struct key *key)
{
    const void *from = field(config, key);
    const struct texts *texts = from;
    switch (key->kind) {
    case INTEGER:
        return number_json((double)*(const int64_t *)from);
    case NUMBER:
        return number_json(*(const double *)from);
    case BOOLEAN:
        return cJSON_CreateBool(*(const bool *)from);
    case PAIR:
        return pair_json(from);
    case TEXT:
        return *(char *const *)from ? cJSON_CreateString(*(char *const *)from) : cJSON_CreateNull();
    case TEXTS:
        return cJSON_CreateStringArray((const char *const *)texts->items, (int)texts->count);
    case NAME:
        return cJSON_CreateString(*(const char *const *)from);
    case POSITION:
        return cJSON_CreateString(config_key_value(key, *(const int *)from));
    }
    return NULL;
}

/* The object that holds a key, created if missing; NULL when out of memory. */
static cJSON *group_of(cJSON *root, const struct key *key)
{
    const char *dot = strchr(key->name, '.');
    if (!dot)
        return root;
    char name[CONFIG_NAME_LIMIT];
    snprintf(name, sizeof name, "%.*s", (int)(dot - key->name), key->name);
    cJSON *group = cJSON_GetObjectItemCaseSensitive(root, name);
    return group ? group : cJSON_AddObjectToObject(root, name);
}

static bool add_key(cJSON *root, const struct config *config, const struct key *key)
{
    cJSON *group = group_of(root, key);
    cJSON *value = value_json(config, key);
    if (group && value && cJSON_AddItemToObject(group, config_last_part(key->name), value))
        return true;
    cJSON_Delete(value);
    return false;
}

static bool shapes_training(const struct config *config, const struct key *key)
{
    if (key->offset == offsetof(struct config, optim.steps))
        return lr_schedule_uses_steps(config->optim.schedule);
    return key->trains;
}

/* The JSON text of all keys or of those that shape the training, with one newline more if `indented`. */
static char *to_text(const struct config *config, bool only_training, bool indented)
{
    cJSON *root = cJSON_CreateObject();
    bool good = root != NULL;
    for (int i = 0; i < CONFIG_KEYS && good; i++)
        if (!only_training || shapes_training(config, &config_keys[i]))
            good = add_key(root, config, &config_keys[i]);
    char *printed = !good ? NULL : indented ? cJSON_Print(root) : cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    char *text = printed ? memory_alloc((int64_t)strlen(printed) + 2, 1) : NULL;
    if (text)
        snprintf(text, strlen(printed) + 2, "%s%s", printed, indented ? "\n" : "");
    cJSON_free(printed);
    /* cJSON prints a tab after a colon; inside texts a tab is always escaped. */
    for (char *colon = text; colon && (colon = strstr(colon, ":\t"));)
        colon[1] = ' ';
    return text;
}

char *config_json(const struct config *config)
{
    return to_text(config, false, true);
}

char *config_recipe(const struct config *config)
{
    return to_text(config, true, false);
}
