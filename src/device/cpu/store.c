#include <string.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"
#include "device/quantize.h"

/* A weight in the store: panels [columns / panel][k][panel] of the kept type, k over (ky, kx, channel); then the scales
 * of int8 and the bias, F32 [columns], in the panels' order. Columns are the outputs, filled up with zeros to whole
 * panels. A gated layer's panel holds `width` values and then the gates that belong to them, so that one task makes
 * both. */

static int64_t packed_columns(const struct kernels *k, const struct weight *w)
{
    return w->gated ? round_up(w->out / 2, k->width) * 2 : round_up(w->out, k->panel);
}

/* The output that lies in a packed column, or -1 for padding. */
static int64_t output_of(const struct kernels *k, const struct weight *w, int64_t column)
{
    if (!w->gated)
        return column < w->out ? column : -1;
    int64_t within = column % k->panel, value = column / k->panel * k->width + within % k->width;
    if (value >= w->out / 2)
        return -1;
    return within < k->width ? value : value + w->out / 2;
}

static int64_t depth_of(const struct weight *w)
{
    return w->in * w->kh * w->kw;
}

int64_t cpu_weight_place(const struct device *device, struct weight *w, char *at)
{
    enum { ALIGN = 64 };
    const struct kernels *k = cpu_of(device)->kernels;
    int64_t columns = w->norm ? w->out : packed_columns(k, w), depth = w->norm ? 1 : depth_of(w);
    int64_t panels = round_up(columns * depth * dtype_size(w->type), ALIGN);
    int64_t row = round_up(columns * (int64_t)sizeof(float), ALIGN);
    int64_t scale = w->type == I8 ? row : 0, bias = w->has_bias ? row : 0;
    if (at) {
        w->data = at;
        w->scale = scale ? (const float *)(at + panels) : NULL;
        w->bias = bias ? (const float *)(at + panels + scale) : NULL;
    }
    return panels + scale + bias;
}

/* ------------------------------------------------------------------------------------------------ packing */

struct packing {
    const struct kernels *kernels;
    const struct weight *weight;
    const struct weight_source *source;
    char *rows; /* [threads][depth] numbers of the kept type's width or float, for the row at hand */
    int64_t row_bytes;
};

static void put_number(void *to, int64_t at, float x, enum dtype type)
{
    if (type == F32)
        ((float *)to)[at] = x;
    else
        ((uint16_t *)to)[at] = type == F16 ? float_to_half(x) : float_to_bfloat(x);
}

static void quantize_one(int8_t *codes, float *scale, const char *from, enum dtype type, int64_t depth)
{
    char narrow[sizeof(float)];
    quantize_weight(codes, narrow, from, type, 1, depth);
    dtype_to_float(scale, narrow, type, 1);
}

/* Row `o` of the source as floats, or as codes where int8 is kept; returns the scale of its codes. */
static float read_row(const struct packing *p, int64_t o, void *row)
{
    const struct weight_source *s = p->source;
    int64_t depth = depth_of(p->weight);
    const char *from = (const char *)s->data + o * depth * dtype_size(s->type);
    float scale = 1;
    if (s->scale)
        dtype_to_float(&scale, (const char *)s->scale + o * dtype_size(s->scale_type), s->scale_type, 1);
    if (p->weight->type == I8 && s->type == I8)
        memcpy(row, from, (size_t)depth);
    else if (p->weight->type == I8)
        quantize_one(row, &scale, from, s->type, depth);
    else
        dtype_to_float(row, from, s->type, depth);
    for (int64_t i = 0; s->scale && p->weight->type != I8 && i < depth; i++)
        ((float *)row)[i] *= scale;
    return scale;
}

/* Task: one packed column. The file's order is (channel, tap), the panel's (tap, channel). */
static void pack_column(void *arg, int64_t column, int thread)
{
    const struct packing *p = arg;
    const struct weight *w = p->weight;
    int64_t panel = p->kernels->panel, taps = w->kh * w->kw, depth = depth_of(w), size = dtype_size(w->type);
    int64_t o = output_of(p->kernels, w, column);
    char *to = (char *)w->data + column / panel * panel * depth * size;
    void *row = p->rows + thread * p->row_bytes;
    memset(row, 0, (size_t)p->row_bytes);
    float scale = o < 0 ? 0 : read_row(p, o, row);
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < w->in; c++) {
            int64_t at = (tap * w->in + c) * panel + column % panel, from = c * taps + tap;
            if (w->type == I8)
                ((int8_t *)to)[at] = ((const int8_t *)row)[from];
            else
                put_number(to, at, ((const float *)row)[from], w->type);
        }
    if (w->scale)
        ((float *)w->scale)[column] = scale;
    if (w->bias) {
        float bias = 0;
        if (o >= 0)
            dtype_to_float(&bias, (const char *)p->source->bias + o * dtype_size(p->source->bias_type),
                           p->source->bias_type, 1);
        ((float *)w->bias)[column] = bias;
    }
}

struct error cpu_weight_pack(struct device *device, const struct weight *w, const struct weight_source *source)
{
    const struct cpu *cpu = cpu_of(device);
    if (w->norm) {
        dtype_to_float((float *)w->data, source->data, source->type, w->out);
        if (w->bias)
            dtype_to_float((float *)w->bias, source->bias, source->bias_type, w->out);
        return ok();
    }
    struct packing p = {.kernels = cpu->kernels, .weight = w, .source = source};
    p.row_bytes = round_up(depth_of(w) * (int64_t)sizeof(float), 64);
    p.rows = memory_take(pool_threads(cpu->pool), p.row_bytes);
    if (!p.rows)
        return error_memory("packing a weight");
    pool_run(cpu->pool, packed_columns(cpu->kernels, w), pack_column, &p);
    memory_free(p.rows);
    return ok();
}
