#include "model/model_folder.h"

struct error model_folder_check(const char *folder)
{
    static const char *const parts[] = {"text_encoder", "unet", "vae"};
    char path[PATH_SIZE];
    if (file_exists(folder))
        return error_input("\"%.300s\": is a file; expected a diffusers model folder", folder);
    if (!folder_exists(folder))
        return error_input("\"%.300s\": no such folder; expected a diffusers model folder", folder);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        TRY(path_join(path, folder, parts[i]));
        if (folder_exists(path))
            return ok();
    }
    return error_input("\"%.300s\": has no text_encoder, unet or vae; expected a diffusers model folder", folder);
}

struct error model_folder_weights(char path[PATH_SIZE], const char *folder, const char *part)
{
    static const char *const names[] = {
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.bf16.safetensors",
        "diffusion_pytorch_model.safetensors.index.bf16.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model.fp16.safetensors",
        "model.safetensors.index.fp16.json",
        "model.bf16.safetensors",
        "model.safetensors.index.bf16.json",
        "diffusion_pytorch_model.non_ema.safetensors",
    };
    char directory[PATH_SIZE];
    TRY(path_join(directory, folder, part));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        TRY(path_join(path, directory, names[i]));
        if (file_exists(path))
            return ok();
    }
    char pickled[PATH_SIZE];
    TRY(path_join(pickled, directory, "diffusion_pytorch_model.bin"));
    if (file_exists(pickled))
        return error_input("%s: only pickled weights (.bin) here; save the model with safe_serialization=True",
                           directory);
    if (!folder_exists(directory))
        return error_input("%s: no such folder; a diffusers model folder has a part `%s`", directory, part);
    return error_input("%s: no weights here; expected %s or %s", directory, names[0], names[6]);
}
