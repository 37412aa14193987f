#include <string.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"
#include "device/quantize.h"

/* A weight in the store: panels [columns / panel][k][panel] of the kept type, k over (ky, kx, channel); then the scales
 * of int8 and the bias, F32 [columns], in the panels' order. Codes of 8 bits of four terms lie together if no four have
 * terms of two taps, [k / 4][panel][4], each 128 higher, as int8.h takes them. 4-bit codes lie two in a byte, a panel's first half of
 * columns low and its second high; their scales and shifts are F32 [columns / panel][groups of a row][panel]. Columns
 * are the outputs, padded with zeros to whole panels. A gated layer's panel holds `width` values and then their gates,
 * so that one task computes both. */

static int64_t packed_columns(const struct kernels *k, const struct weight *w)
{
    return w->gated ? round_up(w->out / 2, k->width) * 2 : round_up(w->out, k->panel);
}

/* The output that a packed column holds, or -1 for padding. */
static int64_t output_of(const struct kernels *k, const struct weight *w, int64_t column)
{
    if (!w->gated)
        return column < w->out ? column : -1;
    int64_t within = column % k->panel, value = column / k->panel * k->width + within % k->width;
    if (value >= w->out / 2)
        return -1;
    return within < k->width ? value : value + w->out / 2;
}

int64_t cpu_weight_place(const struct device *device, struct weight *w, char *at)
{
    enum { ALIGN = 64 };
    const struct kernels *k = cpu_of(device)->kernels;
    int64_t columns = w->norm ? w->out : packed_columns(k, w), depth = w->norm ? 1 : weight_depth(w);
    int64_t panels = round_up(w->group ? columns * depth / 2 : columns * depth * dtype_size(w->type), ALIGN);
    int64_t row = round_up(columns * (int64_t)sizeof(float), ALIGN), bias = w->has_bias ? row : 0;
    int64_t scale = w->type == I8 ? row : w->group ? row * (depth / w->group) : 0, shift = w->group ? scale : 0;
    if (at) {
        w->data = at;
        w->scale = scale ? (const float *)(at + panels) : NULL;
        w->shift = shift ? (const float *)(at + panels + scale) : NULL;
        w->bias = bias ? (const float *)(at + panels + scale + shift) : NULL;
    }
    return panels + scale + shift + bias;
}

/* -------------------------------------------------------------------------------- packing */

struct packing {
    const struct kernels *kernels;
    const struct weight *weight;
    const struct weight_source *source;
    char *rows; /* [threads][row_bytes]: for the row at hand, [depth] floats or codes, with codes' scales and shifts */
    int64_t row_bytes;
};

static void put_number(void *to, int64_t at, float x, enum dtype type)
{
    if (type == F32)
        ((float *)to)[at] = x;
    else
        ((uint16_t *)to)[at] = type == F16 ? float_to_half(x) : float_to_bfloat(x);
}

/* Row `o` of the source as floats, or as codes where int8 is kept; returns the scale of its codes. */
static float read_row(const struct packing *p, int64_t o, void *row)
{
    if (p->weight->type == I8)
        return weight_row_codes8(p->source, o, row);
    weight_row_floats(p->source, o, row);
    return 1;
}

static void pack_bias(const struct packing *p, int64_t column, int64_t o)
{
    if (p->weight->bias)
        ((float *)p->weight->bias)[column] = o >= 0 ? weight_row_bias(p->source, o) : 0;
}

static int64_t fours_place(int64_t term, int64_t panel, int64_t column)
{
    return (term / 4 * panel + column) * 4 + term % 4;
}

/* Task: one packed column. The file's order is (channel, tap), the panel's (tap, channel). */
static void pack_column(void *arg, int64_t column, int thread)
{
    const struct packing *p = arg;
    const struct weight *w = p->weight;
    int64_t panel = p->kernels->panel, taps = w->kh * w->kw, depth = weight_depth(w), size = dtype_size(w->type);
    int64_t o = output_of(p->kernels, w, column);
    char *to = (char *)w->data + column / panel * panel * depth * size;
    void *row = p->rows + thread * p->row_bytes;
    memset(row, 0, (size_t)p->row_bytes);
    float scale = o < 0 ? 0 : read_row(p, o, row);
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < w->in; c++) {
            int64_t at = (tap * w->in + c) * panel + column % panel, from = c * taps + tap;
            if (in_fours(w))
                ((uint8_t *)to)[fours_place(tap * w->in + c, panel, column % panel)] =
                    (uint8_t)(((const int8_t *)row)[from] + 128);
            else if (w->type == I8)
                ((int8_t *)to)[at] = ((const int8_t *)row)[from];
            else
                put_number(to, at, ((const float *)row)[from], w->type);
        }
    if (w->scale)
        ((float *)w->scale)[column] = scale;
    pack_bias(p, column, o);
}

/* One packed column of 4-bit codes; those of a panel's first half come before those that share their bytes. */
static void pack_codes4(const struct packing *p, int64_t column, void *row)
{
    const struct weight *w = p->weight;
    int64_t panel = p->kernels->panel, width = p->kernels->width, taps = w->kh * w->kw, depth = weight_depth(w);
    int64_t groups = depth / w->group, within = column % panel, o = output_of(p->kernels, w, column);
    float *scales = row, *shifts = scales + groups;
    uint8_t *codes = (uint8_t *)(shifts + groups);
    uint8_t *to = (uint8_t *)w->data + (column - within) * depth / 2 + within % width;
    memset(row, 0, (size_t)p->row_bytes);
    if (o >= 0)
        weight_row_codes4(p->source, o, codes, scales, shifts);
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < w->in; c++, to += width) {
            uint8_t code = codes[c * taps + tap];
            *to = within < width ? code : (uint8_t)(*to | code << 4);
        }
    int64_t place = (column - within) * groups + within;
    for (int64_t g = 0; g < groups; g++) {
        ((float *)w->scale)[place + g * panel] = scales[g];
        ((float *)w->shift)[place + g * panel] = shifts[g];
    }
    pack_bias(p, column, o);
}

/* Task: one panel, since two columns share their bytes. */
static void pack_panel4(void *arg, int64_t i, int thread)
{
    const struct packing *p = arg;
    int64_t panel = p->kernels->panel;
    for (int64_t column = i * panel; column < (i + 1) * panel; column++)
        pack_codes4(p, column, p->rows + thread * p->row_bytes);
}

struct error cpu_weight_pack(struct device *device, const struct weight *w, const struct weight_source *source)
{
    const struct cpu *cpu = cpu_of(device);
    struct packing p = {.kernels = cpu->kernels, .weight = w, .source = source};
    p.row_bytes = round_up(weight_depth(w) * (int64_t)sizeof(float), 64);
    p.rows = memory_alloc(pool_threads(cpu->pool), p.row_bytes);
    if (!p.rows)
        return error_memory("packing a weight");
    int64_t columns = packed_columns(cpu->kernels, w);
    if (w->group)
        pool_run(cpu->pool, columns / cpu->kernels->panel, pack_panel4, &p);
    else
        pool_run(cpu->pool, columns, pack_column, &p);
    memory_free(p.rows);
    return ok();
}
