#include "model/settings_copy.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "model/model_source.h"
#include "model/single_file.h"

enum { COPY_LIMIT = 64 << 20 };

const char *const settings_folders[] = {"", "text_encoder", "unet", "vae", "scheduler", "tokenizer", NULL};
const char settings_quanto_map[] = "quanto_qmap.json";

bool settings_are(const char *name)
{
    return (text_ends_with(name, ".json") || text_ends_with(name, ".txt")) && !strstr(name, ".index.") &&
           strcmp(name, settings_quanto_map) != 0;
}

/* -------------------------------------------------------------------------------- files of a folder */

static struct error copy_file(const char *from, const char *to, const char *name)
{
    char source[PATH_SIZE], target[PATH_SIZE], *data;
    int64_t size;
    TRY(path_join(source, from, name));
    TRY(path_join(target, to, name));
    enum path_kind kind;
    TRY(path_look(source, &kind));
    if (kind != PATH_FILE)
        return ok();
    TRY(file_read(source, COPY_LIMIT, &data, &size));
    struct error e = file_write_whole(target, data, size);
    memory_free(data);
    return e;
}

/* Small files of FROM to the folder TO, if FROM exists. */
static struct error copy_files(const char *from, const char *to)
{
    char **names;
    int64_t count;
    enum path_kind kind;
    TRY(path_look(from, &kind));
    if (kind != PATH_FOLDER)
        return ok();
    TRY(folder_make(to));
    TRY(folder_list(from, &names, &count));
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++)
        if (settings_are(names[i]))
            e = copy_file(from, to, names[i]);
    folder_list_free(names, count);
    return e;
}

/* -------------------------------------------------------------------------------- settings as JSON */

static struct error write_json(const char *path, const cJSON *root)
{
    char *text = root ? cJSON_Print(root) : NULL;
    if (!text)
        return error_memory(path);
    struct error e = file_write_whole(path, text, (int64_t)strlen(text));
    cJSON_free(text);
    return e;
}

/* Changes one key of FOLDER/NAME, if that exists. */
static struct error change_json(const char *folder, const char *name, const char *key, const char *value)
{
    char path[PATH_SIZE];
    enum path_kind kind;
    struct json j;
    TRY(path_join(path, folder, name));
    TRY(path_look(path, &kind));
    if (kind != PATH_FILE)
        return ok();
    TRY(json_open(&j, path));
    cJSON_DeleteItemFromObjectCaseSensitive(j.root, key);
    struct error e = cJSON_AddStringToObject(j.root, key, value) ? write_json(path, j.root) : error_memory(path);
    json_close(&j);
    return e;
}

/* The settings NAME ("unet/config.json") of a single file, to OUT/NAME, whose folder is made. */
static struct error write_derived(const char *model, const char *name, enum prediction_choice prediction,
                                  const char *out)
{
    char source[PATH_SIZE], path[PATH_SIZE], folder[PATH_SIZE];
    struct json j;
    TRY(path_join(path, out, name));
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
    TRY(folder_make(folder));
    TRY(model_json(&j, source, model, name, prediction));
    struct error e = write_json(path, j.root);
    json_close(&j);
    return e;
}

/* -------------------------------------------------------------------------------- what callers see */

struct error settings_copy_part(const char *model, const char *part, const char *out)
{
    char from[PATH_SIZE], to[PATH_SIZE], name[64];
    snprintf(name, sizeof name, "%.40s/config.json", part);
    if (model_is_file(model))
        return write_derived(model, name, PREDICTION_AS_MODEL, out);
    TRY(path_join(from, model, part));
    TRY(path_join(to, out, part));
    return copy_files(from, to);
}

static struct error copy_tokenizer(const char *model, const char *tokenizer, const char *out)
{
    char from[PATH_SIZE], to[PATH_SIZE];
    const char *pads;
    TRY(model_tokenizer_folder(from, model, tokenizer, &pads));
    TRY(path_join(to, out, "tokenizer"));
    TRY(copy_files(from, to));
    if (!pads)
        return ok();
    TRY(change_json(to, "tokenizer_config.json", "pad_token", pads));
    return change_json(to, "special_tokens_map.json", "pad_token", pads);
}

static struct error copy_folder(const char *model, enum prediction_choice prediction, const char *out)
{
    for (int i = 0; settings_folders[i]; i++) {
        char from[PATH_SIZE], to[PATH_SIZE];
        TRY(path_join(from, model, settings_folders[i]));
        TRY(path_join(to, out, settings_folders[i]));
        if (strcmp(settings_folders[i], "tokenizer") != 0)
            TRY(copy_files(from, to));
    }
    if (prediction == PREDICTION_AS_MODEL)
        return ok();
    return change_json(out, "scheduler/scheduler_config.json", "prediction_type", prediction_type(prediction));
}

struct error settings_copy(const char *model, const char *tokenizer, enum prediction_choice prediction, const char *out)
{
    TRY(copy_tokenizer(model, tokenizer, out));
    if (!model_is_file(model))
        return copy_folder(model, prediction, out);
    for (int i = 0; single_file_names[i]; i++)
        TRY(write_derived(model, single_file_names[i], prediction, out));
    return ok();
}
