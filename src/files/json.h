/* files/json.h
 *
 * Reads JSON files, of at most 16 MB, in two ways. What people write (configs, jobs) is read strictly, so that a slip
 * is found and shown by its line: json_read. What other programs wrote into a model folder (config.json and similar) is
 * read as they read it: json_open, and then each key by its type.
 */
#ifndef ZOODIP_FILES_JSON_H
#define ZOODIP_FILES_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct cJSON;

/* A file that holds one JSON object and nothing else -> *root, for cJSON_Delete; `source` names it in errors. */
struct error json_read(struct cJSON **root, const char *path, const char *source);

/* The same from a text, with a zero byte after its `size`. */
struct error json_parse(struct cJSON **root, const char *source, const char *text, int64_t size);

/* Refuses text that is not UTF-8, or that holds a zero byte, as it is or escaped (\u0000): strings end there, and what
 * follows would be lost in silence. */
struct error json_check_text(const char *source, const char *text, int64_t size);

/* Adds a number to an object that is to be printed, with all of its digits; what is not finite becomes null. */
void json_add_number(struct cJSON *object, const char *key, double value);

/* A file's settings. The first error sticks to them, so that they are read as a plain list of keys and checked once at
 * the end. Errors: FILE: KEY: what is wrong. */
struct json {
    const char *path; /* borrowed, for the errors */
    struct cJSON *root;
    struct error error;
};

/* Infinity, as Python writes it, is read as null. */
struct error json_open(struct json *json, const char *path);
void json_close(struct json *json);

/* The value of a key; `fallback` where the key is absent or null. Out of [low, high] is an error. */
int64_t json_integer(struct json *json, const char *key, int64_t fallback, int64_t low, int64_t high);
double json_number(struct json *json, const char *key, double fallback);
bool json_bool(struct json *json, const char *key, bool fallback);
const char *json_string(struct json *json, const char *key, const char *fallback); /* valid as long as json */

/* A list of at most `room` integers in [low, high], or one integer that stands for `count` equal ones (count > 0).
 * Returns how many; 0 where the key is absent or null. */
int64_t json_integers(struct json *json, const char *key, int64_t *out, int64_t room, int64_t count, int64_t low,
                      int64_t high);

/* A list of just `count` numbers; false where the key is absent or null. */
bool json_numbers(struct json *json, const char *key, double *out, int64_t count);

/* A list of at most `room` strings; returns how many. */
int64_t json_strings(struct json *json, const char *key, const char **out, int64_t room);

/* Refuses the file if a key is present, not null, and not `only`, given as JSON text (such as "false", "1",
 * "\"silu\""). */
void json_only(struct json *json, const char *key, const char *only);

/* The same for a string with two names. */
void json_same(struct json *json, const char *key, const char *only, const char *alias);

/* "FILE: KEY: text" as the settings' error, unless there is one already. */
__attribute__((format(printf, 3, 4))) void json_wrong(struct json *json, const char *key, const char *format, ...);

#endif
