/* quantize IN.safetensors OUT.safetensors
 *
 * `weight` [out, ...] of type F32, F16 or BF16 -> `codes` I8 of its shape, `scales` [out] of its type.
 */
#include <stdio.h>

#include "base/memory.h"
#include "device/quantize.h"
#include "files/safetensors.h"

static struct error quantize(const struct safetensors *in, const char *path)
{
    const struct entry *w = safetensors_find(in, "weight");
    if (!w || w->ranks < 1 || w->count == 0)
        return error_input("%s: tensor weight: is missing", in->path);
    struct entry out[] = {
        *w, {.name = "scales", .type = w->type, .ranks = 1, .shape = {w->shape[0]}, .count = w->shape[0]}};
    out[0].name = "codes";
    out[0].type = I8;
    int8_t *codes = memory_take(w->count, 1);
    void *scales = memory_take(w->shape[0], dtype_size(w->type));
    struct error e = codes && scales ? ok() : error_memory("the codes");
    if (e.code == ERROR_NONE) {
        quantize_weight(codes, scales, w->data, w->type, w->shape[0], w->count / w->shape[0]);
        out[0].data = codes;
        out[1].data = scales;
        e = safetensors_write(path, out, 2, NULL, 0);
    }
    memory_free(codes);
    memory_free(scales);
    return e;
}

int main(int argc, char **argv)
{
    struct safetensors in = {0};
    struct error e = argc == 3 ? safetensors_open(&in, argv[1]) : error_input("usage: quantize IN OUT");
    if (e.code == ERROR_NONE)
        e = quantize(&in, argv[2]);
    safetensors_close(&in);
    if (e.code != ERROR_NONE)
        fprintf(stderr, "quantize: %s\n", e.text);
    return e.code;
}
