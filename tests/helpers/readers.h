/* tests/helpers/readers.h
 *
 * Every reader of a file from outside, each as one function that opens PATH, uses what it holds, and lets go of it
 * again: for files that are damaged on purpose (damage.c) and for the fuzzer (tests/fuzz/). Included by one file of each
 * program.
 */
#ifndef ZOODIP_TESTS_HELPERS_READERS_H
#define ZOODIP_TESTS_HELPERS_READERS_H

#include "files/config.h"
#include "files/file.h"
#include "files/json.h"
#include "files/picture.h"
#include "files/safetensors.h"
#include "text/tokenizer.h"
#include "zo/checkpoint.h"

/* Reads every byte, and closes the file: one outside the mapping crashes here. */
static inline struct error use_tensors(struct safetensors *file)
{
    unsigned sum = 0;
    for (int64_t i = 0; i < file->entry_count; i++) {
        const unsigned char *bytes = file->entries[i].data;
        for (int64_t k = 0; k < file->entries[i].count * dtype_size(file->entries[i].type); k++)
            sum = sum * 31 + bytes[k];
    }
    bool found = file->entry_count == 0 || safetensors_find(file, file->entries[0].name);
    safetensors_close(file);
    return found || sum == 0 ? ok() : error_failed("an entry cannot be found");
}

static inline struct error read_safetensors(const char *path)
{
    struct safetensors file;
    TRY(safetensors_open(&file, path));
    return error_in(use_tensors(&file), "%s", path);
}

static inline struct error read_picture(const char *path)
{
    struct picture picture, fitted;
    TRY(picture_read(&picture, path, (const uint8_t[3]){9, 99, 199}));
    struct error e = picture_fit(&fitted, &picture, 8, 8, FIT_CROP);
    picture_free(&fitted);
    picture_free(&picture);
    return e;
}

static inline struct error read_config(const char *path)
{
    struct config config;
    TRY(config_read(&config, path, &(struct text_list){0}));
    config_free(&config);
    return ok();
}

static inline struct error read_json(const char *path)
{
    struct json json;
    TRY(json_open(&json, path));
    int64_t list[4];
    const char *names[4];
    json_integer(&json, "layers", 1, 0, 100);
    json_number(&json, "scale", 1);
    json_bool(&json, "bias", false);
    json_string(&json, "act", "");
    json_integers(&json, "channels", list, 4, 0, 1, 1000);
    json_strings(&json, "blocks", names, 4);
    json_only(&json, "form", "\"plain\"");
    struct error e = json.error;
    json_close(&json);
    return e;
}

static inline struct error read_tokenizer(const char *folder)
{
    struct tokenizer *tokenizer;
    TRY(tokenizer_load(&tokenizer, folder));
    int32_t ids[77];
    struct error e = tokenizer_encode(tokenizer, "a photo of a red \xc3\xa9toile, 42 times!", ids, 77);
    tokenizer_free(tokenizer);
    return e;
}

/* Checkpoints are read into a state of this width and tau. */
enum { STATE_DIM = 12, STATE_TAU = 4 };

/* And what they stand on. */
static const struct origin checkpoint_origin = {{"recipe", "model", "3, pictures", "order", "captions", "device"}};

static inline struct error read_checkpoint(const char *path)
{
    struct state s;
    TRY(state_new(&s, STATE_DIM, STATE_TAU, 1e-3));
    struct error e = checkpoint_read(&s, path, &checkpoint_origin);
    state_free(&s);
    return e;
}

#endif
