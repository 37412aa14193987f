#include "files/config_value.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static void *field(const struct config *config, const struct key *key)
{
    return (char *)config + key->offset;
}

/* -------------------------------------------------------------------------------- what is wrong with a value */

static void expect(char out[256], const struct key *key)
{
    switch (key->kind) {
    case PAIR:
        snprintf(out, 256, "a list of two whole numbers from %.16g to %.16g", key->low, key->high);
        break;
    case INTEGER:
    case NUMBER:
        snprintf(out, 256, "a %snumber from %.16g to %.16g%s%s%s", key->kind == INTEGER ? "whole " : "", key->low,
                 key->high, key->zero ? ", or \"" : "", key->zero ? key->zero : "", key->zero ? "\"" : "");
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

void texts_free(struct texts *texts)
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

static struct error set_number(double *number, const struct key *key, const cJSON *value)
{
    bool zero = key->zero && cJSON_IsString(value) && strcmp(value->valuestring, key->zero) == 0;
    if (!zero && !number_fits(key, value, key->kind == INTEGER))
        return unexpected(key, value);
    *number = zero ? 0 : value->valuedouble;
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

struct error config_value_set(struct config *config, const struct key *key, const cJSON *value)
{
    void *to = field(config, key);
    int position;
    double number;
    switch (key->kind) {
    case INTEGER:
        TRY(set_number(&number, key, value));
        *(int64_t *)to = (int64_t)number;
        return ok();
    case NUMBER:
        return set_number(to, key, value);
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

void config_value_clear(struct config *config, const struct key *key)
{
    void *to = field(config, key);
    if (key->kind == TEXTS)
        texts_free(to);
    if (key->kind == TEXT) {
        memory_free(*(char **)to);
        *(char **)to = NULL;
    }
}

/* -------------------------------------------------------------------------------- from the field back to JSON */

/* The fewest digits that read back as the same number: cJSON's own printing may round the 16th digit. */
static cJSON *number_json(double value)
{
    char text[32];
    bool whole = value == floor(value) && fabs(value) < 1e15; // most keys, and this is much quicker
    if (whole)
        snprintf(text, sizeof text, "%lld", (long long)value);
    for (int digits = 15; digits <= 17 && !whole; digits++) {
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

cJSON *config_value_json(const struct config *config, const struct key *key)
{
    const void *from = field(config, key);
    const struct texts *texts = from;
    double number;
    switch (key->kind) {
    case INTEGER:
    case NUMBER:
        number = key->kind == INTEGER ? (double)*(const int64_t *)from : *(const double *)from;
        return key->zero && number == 0 ? cJSON_CreateString(key->zero) : number_json(number);
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
