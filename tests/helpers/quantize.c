/* quantize IN.safetensors OUT.safetensors [4]
 *
 * `weight` [out, ...] of type F32, F16 or BF16 -> `codes` I8 of its shape, `scales` [out] of its type; in 4 bits
 * `codes` U8 as they lie in a file [groups / 2, group], `scales` and `shifts` [groups] of its type, and `values` F32,
 * the same rows dequantized.
 */
#include <string.h>

#include "base/memory.h"
#include "device/quantize.h"
#include "files/safetensors.h"
#include "files/safetensors_write.h"
#include "helper.h"

static struct error quantize8(const struct entry *w, const char *path)
{
    struct entry out[] = {
        *w, {.name = "scales", .type = w->type, .dimensions = 1, .shape = {w->shape[0]}, .count = w->shape[0]}};
    out[0].name = "codes";
    out[0].type = I8;
    int8_t *codes = memory_alloc(w->count, 1);
    void *scales = memory_alloc(w->shape[0], dtype_size(w->type));
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

static struct error quantize4(const struct entry *w, const char *path)
{
    int64_t out = w->shape[0], depth = w->count / out, group = quantize_group(depth),
            last = w->shape[w->dimensions - 1];
    bool cycles = quantize_cycles(out, depth);
    int64_t groups = cycles ? last : out * depth / group, half = (out * depth / group + 1) / 2;
    struct entry all[] = {
        {.name = "codes", .type = U8, .dimensions = 2, .shape = {half, group}, .count = half * group},
        {.name = "scales", .type = w->type, .dimensions = 1, .shape = {groups}, .count = groups},
        {.name = "shifts", .type = w->type, .dimensions = 1, .shape = {groups}, .count = groups},
        {.name = "values", .type = F32, .dimensions = 2, .shape = {out, depth}, .count = w->count},
    };
    void *data[4];
    struct error e = ok();
    for (int i = 0; i < 4; i++) {
        all[i].data = data[i] = memory_alloc(all[i].count, dtype_size(all[i].type));
        if (!data[i])
            e = error_memory("the codes");
    }
    if (e.code == ERROR_NONE) {
        quantize_weight4(data[0], data[1], data[2], w->data, w->type, out, depth, last);
        struct weight_source s = {
            .data = data[0], .type = U8, .scale = data[1], .shift = data[2], .scale_type = w->type};
        s.out = out;
        s.in = depth;
        s.kh = s.kw = 1;
        s.cycle = cycles ? last : 0;
        for (int64_t row = 0; row < out; row++)
            weight_row_floats(&s, row, (float *)data[3] + row * depth);
        e = safetensors_write(path, all, 4, NULL, 0);
    }
    for (int i = 0; i < 4; i++)
        memory_free(data[i]);
    return e;
}

int main(int argc, char **argv)
{
    struct safetensors in = {0};
    bool four = argc == 4 && strcmp(argv[3], "4") == 0;
    struct error e = argc == 3 || four ? safetensors_open(&in, argv[1]) : error_input("usage: quantize IN OUT [4]");
    const struct entry *w = NULL;
    if (e.code == ERROR_NONE) {
        w = safetensors_find(&in, "weight");
        if (!w || w->dimensions < 1 || w->count == 0)
            e = error_input("%s: tensor weight: is missing", in.path);
    }
    if (e.code == ERROR_NONE)
        e = four ? quantize4(w, argv[2]) : quantize8(w, argv[2]);
    safetensors_close(&in);
    return helper_end("quantize", e);
}
