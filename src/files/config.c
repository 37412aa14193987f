#include "files/config.h"

#include <cjson/cJSON.h>
#include <stddef.h>
#include <string.h>

#include "base/lr_schedule.h"
#include "base/memory.h"
#include "files/config_keys.h"
#include "files/config_value.h"
#include "files/json.h"

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
};

static struct error layer_key(struct layer *layer, const struct key *key, const cJSON *value)
{
    int64_t index = key - config_keys;
    if (layer->given[index])
        return error_input("%s: %s: is given twice", layer->source, key->name);
    layer->given[index] = true;
    layer->config->source_of[index] = (unsigned char)layer->number;
    if (cJSON_IsNull(value)) { /* as if it were missing */
        layer->config->given[index] = false;
        config_value_clear(layer->config, key);
        return ok();
    }
    TRY(error_in(config_value_set(layer->config, key, value), "%s: %s", layer->source, key->name));
    layer->config->given[index] = true;
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
    TRY(json_check_text(layer->source, set, (int64_t)strlen(set)));
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
    if (!k || config->sources.count == 0) // a config made in memory
        return error_in(e, "%s", key);
    return error_in(e, "%s: %s", config->sources.items[config->source_of[k - config_keys]], key);
}

bool config_gives(const struct config *config, const char *key)
{
    const struct key *k = config_key_find(key);
    return k && config->given[k - config_keys];
}

bool config_initializer_is_file(const struct config *config)
{
    static const char *const endings[] = {".safetensors", ".pt", ".bin"};
    const char *text = config->token.initializer;
    bool file = text && strchr(text, '/');
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        file = file || (text && text_ends_with(text, endings[i]));
    return file;
}

static struct error fill_default(struct config *config, const struct key *key)
{
    if (!key->fallback)
        return error_input("is missing, expected %s", key->meaning);
    cJSON *value = cJSON_Parse(key->fallback);
    if (!value)
        return error_memory("a default");
    struct error e = cJSON_IsNull(value) ? ok() : config_value_set(config, key, value);
    cJSON_Delete(value);
    return e;
}

static struct error fill_defaults(struct config *config)
{
    for (int i = 0; i < CONFIG_KEYS; i++)
        if (!config->given[i])
            TRY(config_blame(config, config_keys[i].name, fill_default(config, &config_keys[i])));
    return ok();
}

/* It needs all that a step's predictions say of the word's coordinates. */
static struct error check_method(const struct config *config)
{
    if (config->optim.method != METHOD_GAUSS_NEWTON)
        return ok();
    if (config->zo.directions != DIRECTIONS_TEXT)
        return config_blame(config, "optim.method",
                            error_input("is gauss_newton, expected zo.directions \"text\" with it"));
    if (config->zo.rank != 0 && config->zo.rank != config->zo.n)
        return config_blame(config, "zo.rank",
                            error_input("is %lld, but zo.n is %lld; expected the same, or 0, with optim.method "
                                        "gauss_newton, which takes all directions in every step",
                                        (long long)config->zo.rank, (long long)config->zo.n));
    return ok();
}

static struct error check_together(const struct config *config)
{
    if (config->zo.derivative == DERIVATIVE_TANGENT && config->zo.sides != 1)
        return config_blame(
            config, "zo.derivative",
            error_input("is tangent, an exact slope, which has one side, but zo.sides is %lld; expected "
                        "difference or auto, or zo.sides 1",
                        (long long)config->zo.sides));
    if (config->zo.directions == DIRECTIONS_TEXT && config->zo.rank != 0 && config->zo.rank < config->zo.n)
        return config_blame(config, "zo.rank",
                            error_input("is %lld, but zo.n is %lld; expected 0, or at least as many",
                                        (long long)config->zo.rank, (long long)config->zo.n));
    return check_method(config);
}

/* Adds a copy of a name to a list that has room for it. */
static struct error add_source(struct texts *sources, const char *name)
{
    char *copy = memory_string(name);
    if (!copy)
        return error_memory("a config");
    sources->items[sources->count++] = copy;
    return ok();
}

/* The layers' names and --set become the sources; keys that no layer names are blamed on the last layer. */
static struct error name_sources(struct config *config, const struct config_layer *layers, int64_t layer_count)
{
    struct texts *sources = &config->sources;
    sources->items = memory_alloc(layer_count + 1, sizeof *sources->items);
    if (!sources->items)
        return error_memory("a config");
    while (sources->count <= layer_count)
        TRY(add_source(sources, sources->count < layer_count ? layers[sources->count].source : "--set"));
    memset(config->source_of, (int)layer_count - 1, sizeof config->source_of);
    return ok();
}

static struct error read_layers(struct config *config, const struct config_layer *layers, int64_t layer_count,
                                const struct text_list *sets)
{
    TRY(name_sources(config, layers, layer_count));
    for (int64_t i = 0; i < layer_count; i++) {
        struct layer layer = {.config = config, .source = layers[i].source, .number = i};
        TRY(layer_object(&layer, layers[i].object, ""));
    }
    for (int64_t i = 0; i < sets->count; i++) {
        struct layer argument = {.config = config, .source = "--set", .number = layer_count};
        TRY(read_set(&argument, sets->items[i]));
    }
    return ok();
}

struct error config_layers(struct config *config, const struct config_layer *layers, int64_t layer_count,
                           const struct text_list *sets)
{
    *config = (struct config){0};
    struct error e = read_layers(config, layers, layer_count, sets);
    if (e.code == ERROR_NONE)
        e = fill_defaults(config);
    if (e.code == ERROR_NONE)
        e = check_together(config);
    if (e.code != ERROR_NONE)
        config_free(config);
    return e;
}

struct error config_partial(struct config *config, const struct config_layer *layers, int64_t layer_count,
                            const struct text_list *sets)
{
    *config = (struct config){0};
    struct error e = read_layers(config, layers, layer_count, sets);
    if (e.code != ERROR_NONE)
        config_free(config);
    return e;
}

struct error config_check(const struct config_layer *layers, int64_t layer_count, const struct text_list *sets)
{
    struct config config;
    TRY(config_partial(&config, layers, layer_count, sets));
    config_free(&config);
    return ok();
}

struct error config_read(struct config *config, const char *path, const struct text_list *sets)
{
    *config = (struct config){0};
    cJSON *root;
    TRY(json_read(&root, path, path));
    struct error e = ok();
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
        config_value_clear(config, &config_keys[i]);
}

static struct error copy_sources(struct config *to, const struct config *from)
{
    texts_free(&to->sources);
    to->sources.items = memory_alloc(from->sources.count, sizeof *to->sources.items);
    if (!to->sources.items)
        return error_memory("a config");
    while (to->sources.count < from->sources.count)
        TRY(add_source(&to->sources, from->sources.items[to->sources.count]));
    memcpy(to->source_of, from->source_of, sizeof to->source_of);
    memcpy(to->given, from->given, sizeof to->given);
    memcpy(to->initializer_contents, from->initializer_contents, sizeof to->initializer_contents);
    return ok();
}

struct error config_copy(struct config *to, const struct config *from)
{
    char *text = config_json(from);
    *to = (struct config){0};
    if (!text)
        return error_memory("a config");
    cJSON *root;
    struct error e = json_parse(&root, "config", text, (int64_t)strlen(text));
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

/* -------------------------------------------------------------------------------- the whole as JSON */

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

static bool add_key(cJSON *root, const struct config *config, const struct key *key, bool contents)
{
    cJSON *group = group_of(root, key);
    bool known = contents && key->offset == offsetof(struct config, token.initializer) && *config->initializer_contents;
    cJSON *value = known ? cJSON_CreateString(config->initializer_contents) : config_value_json(config, key);
    if (group && value && cJSON_AddItemToObject(group, config_last_part(key->name), value))
        return true;
    cJSON_Delete(value);
    return false;
}

static bool shapes_training(const struct config *config, const struct key *key)
{
    if (key->offset == offsetof(struct config, optim.steps))
        return lr_schedule_uses_steps(config->optim.schedule);
    if (key->offset == offsetof(struct config, optim.min_gain))
        return config->optim.patience > 0;
    if (key->offset == offsetof(struct config, zo.eps))
        return config->zo.derivative != DERIVATIVE_TANGENT;
    if (key->offset == offsetof(struct config, quant.tangents))
        return config->zo.derivative == DERIVATIVE_TANGENT;
    return key->trains;
}

/* The JSON text of all keys or of those that shape the training, with one newline more if `indented`. */
static char *to_text(const struct config *config, bool only_training, bool indented)
{
    cJSON *root = cJSON_CreateObject();
    bool good = root != NULL;
    for (int i = 0; i < CONFIG_KEYS && good; i++)
        if (!only_training || shapes_training(config, &config_keys[i]))
            good = add_key(root, config, &config_keys[i], only_training);
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

/* Adds the key with that value, as the first of its group, so that a difference in it is named before those that only
 * follow from it, such as a missing zo.eps. */
static bool add_before(cJSON *group, const struct key *key)
{
    const char *name = config_last_part(key->name);
    cJSON *alone = cJSON_CreateObject(), *value = cJSON_Parse(key->before);
    bool named = alone && value && cJSON_AddItemToObject(alone, name, value);
    if (named)
        value = cJSON_DetachItemFromObjectCaseSensitive(alone, name);
    cJSON_Delete(alone);
    if (named && cJSON_InsertItemInArray(group, 0, value))
        return true;
    cJSON_Delete(value);
    return false;
}

bool config_recipe_complete(cJSON *recipe)
{
    for (int i = 0; i < CONFIG_KEYS; i++) {
        const struct key *key = &config_keys[i];
        cJSON *group = key->before ? group_of(recipe, key) : NULL;
        if (!key->before || cJSON_HasObjectItem(group, config_last_part(key->name)))
            continue;
        if (!cJSON_IsObject(group) || !add_before(group, key))
            return false;
    }
    return true;
}
