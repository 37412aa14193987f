#include "device/gpu.h"

#include <stddef.h>

#include "device/tiles.h"

enum { BLOCK = 640 }; /* most channels in a block */

struct gpu_work gpu_work_of(const struct device *d, struct tensor x, const struct weight *coded)
{
    struct gpu_work work = {.numbers = round_up(x.channels, TILE_DEPTH)};
    int64_t row = 2 * work.numbers * tensor_positions(x), primal = primal_lanes(d, x);
    work.codes = primal * row;
    work.scales = round_up(x.lanes * row, 128);
    work.bytes = work.scales;
    if (coded) {
        work.blocks = (x.channels + BLOCK - 1) / BLOCK;
        work.block = round_up((x.channels + work.blocks - 1) / work.blocks, x.channels % 64 == 0 ? 64 : 4);
        int64_t scales = (x.lanes - primal) * tensor_positions(x) * work.blocks * (int64_t)sizeof(float);
        work.outlier_weights = work.scales + round_up(scales, 128);
        work.bytes = work.outlier_weights + coded->kh * coded->kw * tile_layout_of(coded).rows * OUTLIERS;
    }
    return work;
}

void gpu_describe_codes(struct device *d)
{
    d->code_families = CODES_CONV | CODES_LINEAR;
    d->has_halves = true;
}

/* The matrix units take 32 codes at a time, which must share a scale. */
int64_t gpu_code_blocks(const struct device *d, struct tensor y, const struct weight *w, const struct conv *conv)
{
    (void)d;
    (void)y;
    (void)conv;
    bool whole = w->in <= BLOCK || w->in % 64 == 0;
    return w->type == I8 && w->in % 4 == 0 && whole ? (w->in + BLOCK - 1) / BLOCK : 0;
}

int64_t gpu_product_work(const struct device *d, struct tensor y, struct tensor x, const struct weight *w, bool coded)
{
    (void)y;
    return gpu_rounds_once(d) ? gpu_work_of(d, x, coded ? w : NULL).bytes : 0;
}

struct gpu_attention gpu_attention_of(const struct device *d, struct tensor k, int64_t heads)
{
    enum { STEP = 16 };
    struct gpu_attention work = {.parts = gpu_rounds_once(d) ? 1 : 2, .depth = round_up(k.channels / heads, STEP)};
    int64_t tangents = k.lanes - primal_lanes(d, k);
    work.largest = 2 * work.parts * k.lanes * heads * tensor_positions(k) * work.depth * 2;
    work.bytes = work.largest + tangents * GPU_SHARES * (int64_t)sizeof(float);
    return work;
}

int64_t gpu_attention_work(const struct device *d, struct tensor k, int64_t heads)
{
    return gpu_attention_of(d, k, heads).bytes;
}
