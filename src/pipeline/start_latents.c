#include "pipeline/start_latents.h"

#include "base/memory.h"
#include "files/safetensors.h"

/* [n, c, h, w] -> [n, h, w, c] */
static struct error copy_latents(struct start_latents *l, const struct entry *t)
{
    int64_t places = l->height * l->width, channels = l->channels;
    float *flat = memory_alloc(t->count, sizeof *flat);
    l->values = memory_alloc(t->count, sizeof *l->values);
    if (!flat || !l->values) {
        memory_free(flat);
        return error_memory("the latents");
    }
    dtype_to_float(flat, t->data, t->type, t->count);
    for (int64_t n = 0; n < l->count; n++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t p = 0; p < places; p++)
                l->values[(n * places + p) * channels + c] = flat[(n * channels + c) * places + p];
    memory_free(flat);
    return ok();
}

static struct error read_tensor(struct start_latents *l, const struct entry *t, const char *path)
{
    if (!t)
        return error_input("%s: tensor latents: is missing", path);
    if (t->dimensions != 4 || t->shape[1] != l->channels || !dtype_is_weight(t->type))
        return error_input("%s: tensor latents: expected F32 [1 or count, %lld, h, w]", path, (long long)l->channels);
    if (!dtype_finite(t->data, t->type, t->count))
        return error_input("%s: tensor latents: holds a value that is not a number (or infinite)", path);
    if (t->shape[2] < 1 || t->shape[3] < 1 || t->shape[2] > 1024 || t->shape[3] > 1024)
        return error_input("%s: tensor latents: height and width must lie in 1 to 1024", path);
    l->count = t->shape[0];
    l->height = t->shape[2];
    l->width = t->shape[3];
    return copy_latents(l, t);
}

struct error start_latents_read(struct start_latents *l, const char *path, int64_t channels)
{
    struct safetensors file;
    *l = (struct start_latents){.channels = channels};
    TRY(safetensors_open(&file, path));
    struct error e = read_tensor(l, safetensors_find(&file, "latents"), path);
    safetensors_close(&file);
    return e;
}

void start_latents_free(struct start_latents *l)
{
    memory_free(l->values);
    *l = (struct start_latents){0};
}
