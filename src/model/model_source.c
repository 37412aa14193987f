#include "model/model_source.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "model/model_folder.h"
#include "model/single_file.h"

bool model_is_file(const char *model)
{
    return file_exists(model);
}

/* -------------------------------------------------------------------------------- opening */

static struct error open_file(struct single_file *f, const char *path)
{
    if (model_file_is_pickled(path))
        return error_input("%.200s: is pickled, which is not read; make a model folder of it with Python: "
                           "diffusers.StableDiffusionPipeline.from_single_file(\"%.200s\").save_pretrained(\"FOLDER\")",
                           path, path);
    if (!text_ends_with(path, ".safetensors"))
        return error_input("\"%.300s\": exists but is a file; expected a diffusers model folder, or a checkpoint in "
                           "FILE.safetensors",
                           path);
    return single_file_open(f, path);
}

struct error model_check(const char *model)
{
    struct single_file f;
    if (!model_is_file(model))
        return model_folder_check(model);
    TRY(open_file(&f, model));
    single_file_close(&f);
    return ok();
}

struct error model_part_open(struct safetensors *file, const char *model, const char *part)
{
    char path[PATH_SIZE];
    struct single_file f;
    if (model_is_file(model)) {
        TRY(open_file(&f, model));
        return single_file_part(&f, part, file);
    }
    TRY(model_folder_weights(path, model, part));
    return safetensors_open(file, path);
}

/* -------------------------------------------------------------------------------- settings */

static struct error derive(struct json *j, const char *path, const char *model, const char *name,
                           enum prediction_choice prediction)
{
    struct single_file f;
    TRY(open_file(&f, model));
    bool scheduler = strncmp(name, "scheduler/", strlen("scheduler/")) == 0, told = prediction || f.predicted;
    *j = (struct json){.path = path};
    if (!scheduler || told)
        j->root = single_file_settings(&f, name, prediction);
    single_file_close(&f);
    if (scheduler && !told)
        return error_input("%.300s: is a Stable Diffusion 2.x checkpoint that does not say what it predicts; give "
                           "--prediction epsilon (most 512-pixel models) or --prediction v (most 768-pixel models); in "
                           "a config, the key prediction",
                           model);
    return j->root ? ok() : error_memory(path);
}

struct error model_json(struct json *j, char path[PATH_SIZE], const char *model, const char *name,
                        enum prediction_choice prediction)
{
    if (!model_is_file(model)) {
        TRY(path_join(path, model, name));
        return json_open(j, path);
    }
    if (snprintf(path, PATH_SIZE, "%s: %s", model, name) >= PATH_SIZE)
        return error_input("%.200s: is too long a path", model);
    return derive(j, path, model, name, prediction);
}

/* -------------------------------------------------------------------------------- the tokenizer */

/* CLIP's vocabulary beside the program: as in a checkout or a bundle, as installed, and where it was built. */
static struct error find_clip(char folder[PATH_SIZE], const char *model)
{
    static const char *const beside[] = {"../dataset/clip", "../share/zoodip/dataset/clip"};
    char program[PATH_SIZE];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = 0;
    char *slash = strrchr(program, '/');
    if (slash)
        *slash = 0;
    for (int i = 0; i < 2 && slash; i++) {
        TRY(path_join(folder, program, beside[i]));
        if (folder_exists(folder))
            return ok();
    }
    snprintf(folder, PATH_SIZE, "%s", ZOODIP_SOURCE "/dataset/clip");
    if (folder_exists(folder))
        return ok();
    return error_input("%.300s: has no tokenizer of its own, and CLIP's is neither in %.200s/%s nor in %s; give a "
                       "folder with one by --tokenizer, in a config by the key tokenizer",
                       model, program, beside[0], beside[1]);
}

static struct error file_tokenizer(char folder[PATH_SIZE], const char *model, bool *second)
{
    struct single_file f;
    TRY(open_file(&f, model));
    int64_t tokens = f.shape.text.vocab;
    *second = f.second;
    single_file_close(&f);
    if (tokens != CLIP_TOKENS)
        return error_input("%.300s: its text encoder has %lld tokens, CLIP's tokenizer %d; give the folder of its "
                           "tokenizer by --tokenizer, in a config by the key tokenizer",
                           model, (long long)tokens, CLIP_TOKENS);
    return find_clip(folder, model);
}

struct error model_tokenizer_folder(char folder[PATH_SIZE], const char *model, const char *chosen, const char **pads)
{
    bool second = false;
    *pads = NULL;
    if (chosen && snprintf(folder, PATH_SIZE, "%s", chosen) < PATH_SIZE)
        return ok();
    if (chosen)
        return error_input("%.200s: is too long a path", chosen);
    if (!model_is_file(model))
        return path_join(folder, model, "tokenizer");
    TRY(file_tokenizer(folder, model, &second));
    *pads = second ? "!" : NULL; // as in the published models' tokenizers
    return ok();
}

struct error model_tokenizer_load(struct tokenizer **tokenizer, const char *model, const char *chosen)
{
    char folder[PATH_SIZE];
    const char *pads;
    TRY(model_tokenizer_folder(folder, model, chosen, &pads));
    TRY(tokenizer_load(tokenizer, folder));
    struct error e = pads ? error_in(tokenizer_pad_with(*tokenizer, pads), "%s", folder) : ok();
    if (e.code != ERROR_NONE) {
        tokenizer_free(*tokenizer);
        *tokenizer = NULL;
    }
    return e;
}
