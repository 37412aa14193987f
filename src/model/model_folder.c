#include "model/model_folder.h"

#include "base/text.h"

const char *const model_parts[MODEL_PARTS] = {"text_encoder", "unet", "vae"};

static const char a_model[] = "expected a diffusers model folder, or a checkpoint in FILE.safetensors";

/* Has the folder one of the parts? */
static struct error holds_model(const char *folder, bool *found)
{
    *found = false;
    for (int i = 0; i < MODEL_PARTS && !*found; i++) {
        char path[PATH_SIZE];
        enum path_kind kind;
        TRY(path_join(path, folder, model_parts[i]));
        TRY(path_look(path, &kind));
        *found = kind == PATH_FOLDER;
    }
    return ok();
}

/* -------------------------------------------------------------------------------- what is there instead */

/* Looks for a model in the folders of a folder; *found says whether `path` names one. */
static struct error find_below(char path[PATH_SIZE], const char *folder, bool *found)
{
    char **names;
    int64_t count;
    *found = false;
    TRY(folder_list(folder, &names, &count));
    for (int64_t i = 0; i < count && !*found; i++)
        *found = path_join(path, folder, names[i]).code == ERROR_NONE && holds_model(path, found).code == ERROR_NONE &&
                 *found;
    folder_list_free(names, count);
    return ok();
}

/* A folder above a model: for one, that of Hugging Face's cache (models--OWNER--NAME/snapshots/HASH). */
static struct error not_a_model(const char *folder)
{
    char path[PATH_SIZE], snapshots[PATH_SIZE];
    enum path_kind kind;
    bool found;
    TRY(path_join(snapshots, folder, "snapshots"));
    TRY(path_look(snapshots, &kind));
    TRY(find_below(path, kind == PATH_FOLDER ? snapshots : folder, &found));
    if (found)
        return error_input("\"%.200s\": holds a model one folder further down; expected that one: %.250s", folder,
                           path);
    return error_input("\"%.300s\": has no text_encoder, unet or vae; %s", folder, a_model);
}

struct error model_folder_check(const char *folder)
{
    enum path_kind kind;
    bool found;
    TRY(path_look(folder, &kind));
    if (kind != PATH_FOLDER)
        return error_input("\"%.300s\": no such %s; %s", folder,
                           text_ends_with(folder, ".safetensors") ? "file" : "folder", a_model);
    TRY(holds_model(folder, &found));
    return found ? ok() : not_a_model(folder);
}

/* -------------------------------------------------------------------------------- weights */

bool model_file_is_pickled(const char *name)
{
    static const char *const ends[] = {".ckpt", ".pt", ".pth", ".bin"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (text_ends_with(name, ends[i]))
            return true;
    return false;
}

static bool leads_nowhere(const char *directory, const char *name)
{
    char path[PATH_SIZE];
    enum path_kind kind;
    return path_join(path, directory, name).code == ERROR_NONE && path_look(path, &kind).code == ERROR_NONE &&
           kind == PATH_NOTHING;
}

/* The error for a part without weights that can be read. */
static struct error no_weights(const char *directory, const char *part, const char *expected)
{
    char **names;
    int64_t count;
    enum path_kind kind;
    TRY(path_look(directory, &kind));
    if (kind != PATH_FOLDER)
        return error_input("%s: no such folder; a diffusers model folder has a part `%s`", directory, part);
    TRY(folder_list(directory, &names, &count));
    struct error e = error_input("%s: no weights here; expected %s", directory, expected);
    for (int64_t i = 0; i < count; i++)
        if (text_ends_with(names[i], ".safetensors") && leads_nowhere(directory, names[i]))
            e = error_input("%s/%s: is a link that leads nowhere; was the file fetched?", directory, names[i]);
        else if (model_file_is_pickled(names[i]))
            e = error_input("%s: only pickled weights here (%.60s), which are not read; save the model with diffusers' "
                            "save_pretrained(FOLDER, safe_serialization=True)",
                            directory, names[i]);
    folder_list_free(names, count);
    return e;
}

struct error model_folder_weights(char path[PATH_SIZE], const char *folder, const char *part)
{
    static const char *const names[] = {
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.safetensors.fp16.index.json",
        "diffusion_pytorch_model.bf16.safetensors",
        "diffusion_pytorch_model.safetensors.index.bf16.json",
        "diffusion_pytorch_model.safetensors.bf16.index.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model.fp16.safetensors",
        "model.safetensors.index.fp16.json",
        "model.safetensors.fp16.index.json",
        "model.bf16.safetensors",
        "model.safetensors.index.bf16.json",
        "model.safetensors.bf16.index.json",
        "diffusion_pytorch_model.non_ema.safetensors",
    };
    char directory[PATH_SIZE];
    TRY(path_join(directory, folder, part));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        enum path_kind kind;
        TRY(path_join(path, directory, names[i]));
        TRY(path_look(path, &kind));
        if (kind == PATH_FILE)
            return ok();
    }
    return no_weights(directory, part, "diffusion_pytorch_model.safetensors or model.safetensors");
}
