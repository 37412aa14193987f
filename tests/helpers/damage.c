/* damage KIND < PATHS: reads each of the files (or folders) named on stdin as KIND, and prints a line for each: exit
 * code, tab, error text. Built with sanitizers and given damaged files by test_damaged_files.py. damage make-checkpoint
 * < FOLDERS: writes a valid checkpoint into each, to be damaged. */
#include <stdio.h>
#include <string.h>

#include "files/config.h"
#include "files/file.h"
#include "files/json.h"
#include "files/picture.h"
#include "files/safetensors.h"
#include "helper.h"
#include "text/tokenizer.h"
#include "zo/checkpoint.h"

static struct error read_safetensors(const char *path)
{
    struct safetensors file;
    TRY(safetensors_open(&file, path));
    unsigned sum = 0; /* reads every byte: one outside the mapping crashes here */
    for (int64_t i = 0; i < file.entry_count; i++) {
        const unsigned char *bytes = file.entries[i].data;
        for (int64_t k = 0; k < file.entries[i].count * dtype_size(file.entries[i].type); k++)
            sum = sum * 31 + bytes[k];
    }
    bool found = file.entry_count == 0 || safetensors_find(&file, file.entries[0].name);
    safetensors_close(&file);
    return found || sum == 0 ? ok() : error_failed("%s: an entry cannot be found", path);
}

static struct error read_picture(const char *path)
{
    struct picture picture, fitted;
    TRY(picture_read(&picture, path));
    struct error e = picture_fit(&fitted, &picture, 8, 8, FIT_CROP);
    picture_free(&fitted);
    picture_free(&picture);
    return e;
}

static struct error read_config(const char *path)
{
    struct config config;
    TRY(config_read(&config, path, &(struct text_list){0}));
    config_free(&config);
    return ok();
}

static struct error read_json(const char *path)
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

static struct error read_tokenizer(const char *folder)
{
    struct tokenizer *tokenizer;
    TRY(tokenizer_load(&tokenizer, folder));
    int32_t ids[77];
    struct error e = tokenizer_encode(tokenizer, "a photo of a red \xc3\xa9toile, 42 times!", ids, 77);
    tokenizer_free(tokenizer);
    return e;
}

/* The shape of state that make_checkpoint writes. */
static struct error new_state(struct state *s)
{
    return state_new(s, 12, 4, 1e-3);
}

static struct error read_checkpoint(const char *path)
{
    struct state s;
    TRY(new_state(&s));
    struct error e = checkpoint_read(&s, path, "recipe");
    state_free(&s);
    return e;
}

static struct error make_checkpoint(const char *folder)
{
    struct state s;
    TRY(new_state(&s));
    s.step = 7;
    struct error e = checkpoint_write(&s, folder, "recipe", 0);
    state_free(&s);
    return e;
}

static const struct {
    const char *name;
    struct error (*read)(const char *path);
} kinds[] = {
    {"safetensors", read_safetensors},
    {"picture", read_picture},
    {"config", read_config},
    {"json", read_json},
    {"tokenizer", read_tokenizer},
    {"checkpoint", read_checkpoint},
    {"make-checkpoint", make_checkpoint},
};

int main(int argc, char **argv)
{
    char path[PATH_SIZE];
    for (size_t i = 0; argc == 2 && i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kinds[i].name, argv[1]) != 0)
            continue;
        while (fgets(path, sizeof path, stdin)) {
            path[strcspn(path, "\n")] = 0;
            struct error e = kinds[i].read(path);
            printf("%d\t%s\n", e.code, e.text);
            fflush(stdout);
        }
        return 0;
    }
    return helper_end("damage", error_input("usage: damage KIND < PATHS"));
}
