#include "files/origin.h"

#include <cjson/cJSON.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *origin_name(enum origin_fact fact)
{
    static const char *const names[ORIGIN_FACTS] = {"recipe", "model", "pictures", "order", "captions", "device"};
    return names[fact];
}

void origin_crc(char text[ORIGIN_TEXT], uint32_t crc)
{
    snprintf(text, ORIGIN_TEXT, "CRC-32 %08x", crc);
}

void origin_pictures(char text[ORIGIN_TEXT], int64_t count, uint32_t crc)
{
    snprintf(text, ORIGIN_TEXT, "%lld, CRC-32 %08x", (long long)count, crc);
}

/* -------------------------------------------------------------------------------- the recipe's keys */

struct difference {
    char key[120], theirs[100], ours[100]; /* values as JSON, cut at their field's size */
};

/* Are the values of a key different? `ours` is NULL where the key is missing. */
static bool values_differ(struct difference *d, const char *key, const cJSON *theirs, const cJSON *ours)
{
    char *a = cJSON_PrintUnformatted(theirs), *b = ours ? cJSON_PrintUnformatted(ours) : NULL;
    bool differ = !a || !b || strcmp(a, b) != 0;
    snprintf(d->key, sizeof d->key, "%s", key);
    snprintf(d->theirs, sizeof d->theirs, "%s", a ? a : "unknown");
    snprintf(d->ours, sizeof d->ours, "%s", b ? b : "not given");
    cJSON_free(a);
    cJSON_free(b);
    return differ;
}

/* The first key of `theirs` that has another value in `ours`, or none; the name of a nested one begins with its
 * group's. */
static bool find_difference(struct difference *d, const char *group, const cJSON *theirs, const cJSON *ours)
{
    for (const cJSON *item = theirs->child; item; item = item->next) {
        const cJSON *other = cJSON_GetObjectItemCaseSensitive(ours, item->string);
        char key[sizeof d->key];
        snprintf(key, sizeof key, "%s%s%s", group, *group ? "." : "", item->string);
        bool nested = cJSON_IsObject(item) && cJSON_IsObject(other);
        if (nested ? find_difference(d, key, item, other) : values_differ(d, key, item, other))
            return true;
    }
    return false;
}

/* The recipe with the keys that did not exist when it was written, or NULL: for cJSON_Delete. */
static cJSON *parse_recipe(const char *text)
{
    cJSON *recipe = cJSON_Parse(text);
    if (cJSON_IsObject(recipe) && config_recipe_complete(recipe))
        return recipe;
    cJSON_Delete(recipe);
    return NULL;
}

bool recipe_differs(char text[RECIPE_DIFFERENCE], const char *theirs, const char *ours)
{
    struct difference d;
    *text = 0;
    if (strcmp(theirs, ours) == 0)
        return false;
    cJSON *a = parse_recipe(theirs), *b = parse_recipe(ours);
    bool known = a && b, differ = !known;
    if (known && find_difference(&d, "", a, b)) {
        snprintf(text, RECIPE_DIFFERENCE, ": %s is %s there and %s here", d.key, d.theirs, d.ours);
        differ = true;
    } else if (known && find_difference(&d, "", b, a)) { // a key that only ours has
        snprintf(text, RECIPE_DIFFERENCE, ": %s is %s there and %s here", d.key, d.ours, d.theirs);
        differ = true;
    }
    cJSON_Delete(a);
    cJSON_Delete(b);
    return differ;
}

enum derivative recipe_derivative(const char *text)
{
    cJSON *recipe = parse_recipe(text);
    const cJSON *zo = cJSON_GetObjectItemCaseSensitive(recipe, "zo");
    enum derivative found = derivative_of(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(zo, "derivative")));
    cJSON_Delete(recipe);
    return found;
}

int64_t recipe_tangents(const char *text)
{
    cJSON *recipe = parse_recipe(text);
    const cJSON *quant = cJSON_GetObjectItemCaseSensitive(recipe, "quant");
    double bits = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(quant, "tangents"));
    cJSON_Delete(recipe);
    return bits > 0 ? (int64_t)bits : 0; // else it is a text, auto
}

bool recipe_initializer(const char *text, char contents[CONFIG_CONTENTS], int64_t *vectors)
{
    cJSON *recipe = parse_recipe(text);
    const cJSON *token = cJSON_GetObjectItemCaseSensitive(recipe, "token");
    const char *said = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(token, "initializer"));
    double count = cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(token, "vectors"));
    bool file = said && strncmp(said, CONFIG_WORD_FILE, strlen(CONFIG_WORD_FILE)) == 0 && count >= 1;
    if (file) {
        snprintf(contents, CONFIG_CONTENTS, "%s", said);
        *vectors = (int64_t)count;
    }
    cJSON_Delete(recipe);
    return file;
}

double recipe_rate(const char *text)
{
    cJSON *recipe = parse_recipe(text);
    double rate =
        cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(recipe, "optim"), "lr"));
    cJSON_Delete(recipe);
    return rate > 0 ? rate : 0;
}

/* -------------------------------------------------------------------------------- all that differs */

struct list {
    char text[400];
};

__attribute__((format(printf, 2, 3))) static void add(struct list *list, const char *format, ...)
{
    size_t used = strlen(list->text);
    if (used > 0)
        used += (size_t)snprintf(list->text + used, sizeof list->text - used, ", ");
    va_list arguments;
    va_start(arguments, format);
    if (used < sizeof list->text)
        vsnprintf(list->text + used, sizeof list->text - used, format, arguments);
    va_end(arguments);
}

static void add_recipe(struct list *list, const char *theirs, const char *ours)
{
    char difference[RECIPE_DIFFERENCE];
    if (recipe_differs(difference, theirs, ours))
        add(list, "another recipe%s", difference);
}

static void add_pictures(struct list *list, const char *theirs, const char *ours)
{
    long long there = strtoll(theirs, NULL, 10), here = strtoll(ours, NULL, 10);
    if (there != here)
        add(list, "other pictures (%lld there and %lld here)", there, here);
    else
        add(list, "other pictures, masks or data.background");
}

struct error origin_compare(const struct origin *theirs, const struct origin *ours)
{
    bool differ[ORIGIN_FACTS]; // the recipe may be written otherwise and mean the same
    for (int i = 0; i < ORIGIN_FACTS; i++)
        differ[i] = strcmp(theirs->facts[i], ours->facts[i]) != 0;
    struct list list = {""};
    add_recipe(&list, theirs->facts[ORIGIN_RECIPE], ours->facts[ORIGIN_RECIPE]);
    if (differ[ORIGIN_PICTURES])
        add_pictures(&list, theirs->facts[ORIGIN_PICTURES], ours->facts[ORIGIN_PICTURES]);
    else if (differ[ORIGIN_ORDER])
        add(&list, "the same pictures in another order, which is that of their names or of data.images");
    else if (differ[ORIGIN_CAPTIONS]) // which differ with the pictures anyway, if each has its own
        add(&list, "other captions");
    if (differ[ORIGIN_MODEL])
        add(&list, "another model (weights or settings)");
    return list.text[0] ? error_input("made with %s; expected the same, another output.dir, or --overwrite", list.text)
                        : ok();
}
