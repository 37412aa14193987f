#include "files/json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "base/memory.h"
#include "files/file.h"

enum { JSON_LIMIT = 16 << 20 };

/* -------------------------------------------------------------------------------- what people write */

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

struct error json_check_text(const char *source, const char *text, int64_t size)
{
    char place[64];
    for (int64_t at = 0; at < size;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t length = utf8proc_iterate((const utf8proc_uint8_t *)text + at, size - at, &code);
        bool zero = length > 0 && code == 0;
        if (code == '\\' && length > 0) { // of an escape, which may be that of another backslash
            zero = size - at >= 6 && memcmp(text + at, "\\u0000", 6) == 0;
            length = size - at >= 2 && text[at + 1] == '\\' ? 2 : 1;
        }
        if (length <= 0 || zero) {
            show_place(place, text, text + at);
            return error_input("%s: %s: %s", source, place, zero ? "is a zero byte" : "is not UTF-8 text");
        }
        at += length;
    }
    return ok();
}

struct error json_parse(cJSON **root, const char *source, const char *text, int64_t size)
{
    *root = NULL;
    TRY(json_check_text(source, text, size));
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
    *root = NULL;
    return error_input("%s: expected a JSON object, {\"key\": value, ...}", source);
}

struct error json_read(cJSON **root, const char *path, const char *source)
{
    char *text;
    int64_t size;
    TRY(file_read(path, JSON_LIMIT, &text, &size));
    struct error e = json_parse(root, source, text, size);
    memory_free(text);
    return e;
}

void json_add_number(cJSON *object, const char *key, double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.17g", value);
    cJSON_AddRawToObject(object, key, isfinite(value) ? text : "null");
}

/* -------------------------------------------------------------------------------- settings of a model folder */

/* Python writes infinities as bare words, which is not JSON, and diffusers' files have them ("lambda_min_clipped":
 * -Infinity). They become null, the key's default. */
static void blank_infinities(char *text, int64_t size)
{
    static const char *const words[] = {"-Infinity", "Infinity"};
    static const char null[] = "null";
    bool inside = false;
    for (int64_t i = 0; i < size; i++) {
        if (inside && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            inside = !inside;
        for (int w = 0; w < 2 && !inside && i < size; w++) {
            int64_t length = (int64_t)strlen(words[w]);
            if (i + length > size || strncmp(text + i, words[w], (size_t)length) != 0)
                continue;
            memset(text + i, ' ', (size_t)length);
            memcpy(text + i, null, strlen(null));
        }
    }
}

struct error json_open(struct json *json, const char *path)
{
    *json = (struct json){.path = path};
    char *text;
    int64_t size;
    TRY(file_read(path, JSON_LIMIT, &text, &size));
    blank_infinities(text, size);
    struct error e = json_parse(&json->root, path, text, size);
    memory_free(text);
    return e;
}

void json_close(struct json *json)
{
    cJSON_Delete(json->root);
    json->root = NULL;
}

void json_wrong(struct json *json, const char *key, const char *format, ...)
{
    if (json->error.code != ERROR_NONE)
        return;
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    json->error = error_input("%s: %s: %s", json->path, key, text);
}

/* The value of a key, or NULL if it is absent or null. */
static const cJSON *value_of(const struct json *json, const char *key)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(json->root, key);
    return value && !cJSON_IsNull(value) ? value : NULL;
}

static bool integer_in(const cJSON *value, int64_t low, int64_t high)
{
    return cJSON_IsNumber(value) && value->valuedouble == floor(value->valuedouble) &&
           value->valuedouble >= (double)low && value->valuedouble <= (double)high;
}

int64_t json_integer(struct json *json, const char *key, int64_t fallback, int64_t low, int64_t high)
{
    const cJSON *value = value_of(json, key);
    if (!value)
        return fallback;
    if (!integer_in(value, low, high)) {
        json_wrong(json, key, "expected a whole number from %lld to %lld", (long long)low, (long long)high);
        return fallback;
    }
    return (int64_t)value->valuedouble;
}

double json_number(struct json *json, const char *key, double fallback)
{
    const cJSON *value = value_of(json, key);
    if (!value)
        return fallback;
    if (!cJSON_IsNumber(value) || !isfinite(value->valuedouble)) {
        json_wrong(json, key, "expected a number");
        return fallback;
    }
    return value->valuedouble;
}

bool json_bool(struct json *json, const char *key, bool fallback)
{
    const cJSON *value = value_of(json, key);
    if (!value)
        return fallback;
    if (!cJSON_IsBool(value)) {
        json_wrong(json, key, "expected true or false");
        return fallback;
    }
    return cJSON_IsTrue(value);
}

const char *json_string(struct json *json, const char *key, const char *fallback)
{
    const cJSON *value = value_of(json, key);
    if (!value)
        return fallback;
    if (!cJSON_IsString(value)) {
        json_wrong(json, key, "expected a string");
        return fallback;
    }
    return value->valuestring;
}

int64_t json_integers(struct json *json, const char *key, int64_t *out, int64_t room, int64_t count, int64_t low,
                      int64_t high)
{
    const cJSON *value = value_of(json, key);
    if (!value)
        return 0;
    if (!cJSON_IsArray(value) && count > 0) {
        for (int64_t i = 0; i < count; i++)
            out[i] = json_integer(json, key, low, low, high);
        return count;
    }
    int64_t length = cJSON_IsArray(value) ? cJSON_GetArraySize(value) : -1;
    if (length < 0 || length > room) {
        json_wrong(json, key, "expected a list of at most %lld whole numbers", (long long)room);
        return 0;
    }
    int64_t i = 0;
    for (const cJSON *item = value->child; item; item = item->next, i++) {
        if (!integer_in(item, low, high)) {
            json_wrong(json, key, "expected whole numbers from %lld to %lld", (long long)low, (long long)high);
            return 0;
        }
        out[i] = (int64_t)item->valuedouble;
    }
    return length;
}

bool json_numbers(struct json *json, const char *key, double *out, int64_t count)
{
    const cJSON *value = value_of(json, key);
    if (!value)
        return false;
    bool good = cJSON_IsArray(value) && cJSON_GetArraySize(value) == count;
    for (const cJSON *item = value->child; good && item; item = item->next) {
        good = cJSON_IsNumber(item) && isfinite(item->valuedouble);
        *out++ = item->valuedouble;
    }
    if (!good)
        json_wrong(json, key, "expected a list of %lld numbers", (long long)count);
    return true;
}

int64_t json_strings(struct json *json, const char *key, const char **out, int64_t room)
{
    const cJSON *value = value_of(json, key);
    if (!value)
        return 0;
    int64_t length = cJSON_IsArray(value) ? cJSON_GetArraySize(value) : -1;
    if (length < 0 || length > room) {
        json_wrong(json, key, "expected a list of at most %lld strings", (long long)room);
        return 0;
    }
    int64_t i = 0;
    for (const cJSON *item = value->child; item; item = item->next) {
        if (!cJSON_IsString(item)) {
            json_wrong(json, key, "expected strings");
            return 0;
        }
        out[i++] = item->valuestring;
    }
    return length;
}

void json_same(struct json *json, const char *key, const char *only, const char *alias)
{
    const char *value = json_string(json, key, only);
    if (strcmp(value, only) != 0 && strcmp(value, alias) != 0)
        json_wrong(json, key, "\"%.60s\" is not supported, only \"%s\" (\"%s\")", value, only, alias);
}

void json_only(struct json *json, const char *key, const char *only)
{
    const cJSON *value = value_of(json, key);
    if (!value)
        return;
    cJSON *expected = cJSON_Parse(only);
    bool same = expected && cJSON_Compare(value, expected, true);
    cJSON_Delete(expected);
    if (same)
        return;
    char *text = cJSON_PrintUnformatted(value);
    json_wrong(json, key, "%.120s is not supported, only %s", text ? text : "this value", only);
    cJSON_free(text);
}
