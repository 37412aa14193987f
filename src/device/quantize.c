#include "device/quantize.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 512 }; /* numbers widened at a time */

/* Rounds a value to the source's type: an operation in that type is done in float and rounded. */
static float round_to(enum dtype type, float value)
{
    if (type == F16)
        return half_to_float(float_to_half(value));
    if (type == BF16)
        return bfloat_to_float(float_to_bfloat(value));
    return value;
}

/* Writes a scale or a shift into a file's list of them. */
static void put_scale(void *scales, enum dtype type, int64_t i, float scale)
{
    uint16_t half = type == F16 ? float_to_half(scale) : float_to_bfloat(scale);
    if (type == F32)
        memcpy((float *)scales + i, &scale, sizeof scale);
    else
        memcpy((uint16_t *)scales + i, &half, sizeof half);
}

void quantize_weight(int8_t *codes, void *scales, const void *weights, enum dtype type, int64_t out, int64_t in)
{
    float chunk[CHUNK];
    const unsigned char *row = weights;
    for (int64_t o = 0; o < out; o++, row += in * dtype_size(type), codes += in) {
        float amax = 0;
        for (int64_t i = 0; i < in; i += CHUNK) {
            int64_t count = in - i < CHUNK ? in - i : CHUNK;
            dtype_to_float(chunk, row + i * dtype_size(type), type, count);
            for (int64_t k = 0; k < count; k++)
                amax = fabsf(chunk[k]) > amax ? fabsf(chunk[k]) : amax;
        }
        float scale = round_to(type, amax / 127.0f);
        put_scale(scales, type, o, scale);
        for (int64_t i = 0; i < in; i += CHUNK) {
            int64_t count = in - i < CHUNK ? in - i : CHUNK;
            dtype_to_float(chunk, row + i * dtype_size(type), type, count);
            for (int64_t k = 0; k < count; k++) {
                // 0 / 0 gives 0; a scale that rounded to zero gives codes of +-infinity
                float code = rintf(round_to(type, chunk[k] / scale));
                codes[i + k] = (int8_t)(code > 127 ? 127 : code < -128 ? -128 : isnan(code) ? 0 : code);
            }
        }
    }
}

/* -------------------------------------------------------------------------------- four bits */

/* Numbers that share a scale. */
struct group {
    const unsigned char *data;
    enum dtype type;
    int64_t count, stride; /* from one number to the next, in numbers */
};

struct affine {
    float scale, shift;
};

int64_t quantize_group(int64_t depth)
{
    for (int64_t group = 128; group >= 32 && depth > 128; group -= 32)
        if (depth % group == 0)
            return group;
    return depth;
}

bool quantize_cycles(int64_t out, int64_t depth)
{
    return out == 1 && quantize_group(depth) == depth;
}

/* Numbers [first, first + count) of a group. */
static void read_group(float *to, const struct group *g, int64_t first, int64_t count)
{
    int64_t size = dtype_size(g->type);
    const unsigned char *from = g->data + first * g->stride * size;
    if (g->stride == 1) {
        dtype_to_float(to, from, g->type, count);
        return;
    }
    for (int64_t i = 0; i < count; i++)
        dtype_to_float(to + i, from + i * g->stride * size, g->type, 1);
}

static struct affine fit(const struct group *g)
{
    float chunk[CHUNK], least = INFINITY, most = -INFINITY;
    for (int64_t i = 0; i < g->count; i += CHUNK) {
        int64_t count = g->count - i < CHUNK ? g->count - i : CHUNK;
        read_group(chunk, g, i, count);
        for (int64_t k = 0; k < count; k++) {
            least = chunk[k] < least ? chunk[k] : least;
            most = chunk[k] > most ? chunk[k] : most;
        }
    }
    return (struct affine){round_to(g->type, round_to(g->type, most - least) / 15.0f), -least};
}

bool quantize_fits4(const void *weights, enum dtype type, int64_t out, int64_t depth)
{
    int64_t length = quantize_group(depth), groups = out * depth / length;
    if (dtype_below(weights, type, out * depth, type == F16 ? 0x1p15f : 0x1p127f)) // so no two are too far apart
        return true;
    for (int64_t i = 0; i < groups; i++) {
        const unsigned char *data = (const unsigned char *)weights + i * length * dtype_size(type);
        struct group g = {data, type, length, 1};
        if (!isfinite(fit(&g).scale))
            return false;
    }
    return true;
}

/* Codes of numbers [first, first + count), count <= CHUNK. */
static void encode(uint8_t *codes, const struct group *g, struct affine a, int64_t first, int64_t count)
{
    float chunk[CHUNK];
    read_group(chunk, g, first, count);
    for (int64_t k = 0; k < count; k++) {
        float code = rintf(round_to(g->type, round_to(g->type, chunk[k] + a.shift) / a.scale));
        codes[k] = (uint8_t)(code > 15 ? 15 : code > 0 ? code : 0); // 0 / 0 gives 0
    }
}

/* Quantizes a group into the half bytes at packed[0], packed[stride], ...: the low halves are written first. */
static struct affine pack_group(uint8_t *packed, bool high, const struct group *g)
{
    uint8_t codes[CHUNK];
    struct affine a = fit(g);
    for (int64_t i = 0; i < g->count; i += CHUNK) {
        int64_t count = g->count - i < CHUNK ? g->count - i : CHUNK;
        encode(codes, g, a, i, count);
        for (int64_t k = 0; k < count; k++) {
            uint8_t *at = packed + (i + k) * g->stride;
            *at = high ? (uint8_t)(*at | codes[k] << 4) : codes[k];
        }
    }
    return a;
}

void quantize_weight4(uint8_t *packed, void *scales, void *shifts, const void *weights, enum dtype type, int64_t out,
                      int64_t depth, int64_t last)
{
    bool cycles = quantize_cycles(out, depth);
    int64_t length = quantize_group(depth), groups = cycles ? last : out * depth / length, half = (groups + 1) / 2;
    for (int64_t i = 0; i < groups; i++) {
        int64_t first = cycles ? i : i * length;
        bool high = !cycles && i >= half;
        struct group g = {.data = (const unsigned char *)weights + first * dtype_size(type), .type = type};
        g.count = cycles ? depth / last : length;
        g.stride = cycles ? last : 1;
        struct affine a = pack_group(packed + first - (high ? half * length : 0), high, &g);
        put_scale(scales, type, i, a.scale);
        put_scale(shifts, type, i, a.shift);
    }
}

/* The one of joined sources that a row lies in; the row is then counted from its first. */
static const struct weight_source *part_with(const struct weight_source *s, int64_t *row)
{
    for (; *row >= s->out; s = s->next)
        *row -= s->out;
    return s;
}

static int64_t depth_of(const struct weight_source *s)
{
    return s->in * s->kh * s->kw;
}

/* Number `i` of a source's scales, or of its shifts. */
static float scale_at(const struct weight_source *s, const void *scales, int64_t i)
{
    float scale;
    dtype_to_float(&scale, (const char *)scales + i * dtype_size(s->scale_type), s->scale_type, 1);
    return scale;
}

/* Codes [depth] of a row of a 4-bit source. */
static void unpack_row(const struct weight_source *s, int64_t row, uint8_t *codes)
{
    int64_t depth = depth_of(s), length = quantize_group(depth), half = (s->out * depth / length + 1) / 2;
    for (int64_t i = 0; i < depth; i += length) {
        int64_t group = (row * depth + i) / length;
        bool high = group >= half;
        const uint8_t *from = (const uint8_t *)s->data + (high ? group - half : group) * length;
        for (int64_t k = 0; k < length; k++)
            codes[i + k] = high ? from[k] >> 4 : from[k] & 15;
    }
}

float weight_row_codes8(const struct weight_source *s, int64_t row, int8_t *codes)
{
    s = part_with(s, &row);
    int64_t depth = depth_of(s);
    const char *from = (const char *)s->data + row * depth * dtype_size(s->type);
    char narrow[sizeof(float)];
    float scale;
    if (s->type == I8) {
        memcpy(codes, from, (size_t)depth);
        return scale_at(s, s->scale, row);
    }
    quantize_weight(codes, narrow, from, s->type, 1, depth);
    dtype_to_float(&scale, narrow, s->type, 1);
    return scale;
}

float weight_row_bias(const struct weight_source *s, int64_t row)
{
    float bias;
    s = part_with(s, &row);
    dtype_to_float(&bias, (const char *)s->bias + row * dtype_size(s->bias_type), s->bias_type, 1);
    return bias;
}

void weight_row_codes4(const struct weight_source *s, int64_t row, uint8_t *codes, float *scales, float *shifts)
{
    s = part_with(s, &row);
    int64_t depth = depth_of(s), length = quantize_group(depth), groups = depth / length;
    if (s->type == U8) {
        unpack_row(s, row, codes);
        for (int64_t i = 0; i < groups; i++) {
            scales[i] = scale_at(s, s->scale, row * groups + i);
            shifts[i] = scale_at(s, s->shift, row * groups + i);
        }
        return;
    }
    for (int64_t i = 0; i < groups; i++) {
        int64_t first = row * depth + i * length;
        struct group g = {(const unsigned char *)s->data + first * dtype_size(s->type), s->type, length, 1};
        struct affine a = fit(&g);
        for (int64_t k = 0; k < length; k += CHUNK)
            encode(codes + i * length + k, &g, a, k, length - k < CHUNK ? length - k : CHUNK);
        scales[i] = a.scale;
        shifts[i] = a.shift;
    }
}

/* Turns a 4-bit row's codes, one per byte at the end of `to`, into values from the front. */
static void row_from_codes(const struct weight_source *s, int64_t row, float *to)
{
    int64_t depth = depth_of(s), length = quantize_group(depth);
    uint8_t *codes = (uint8_t *)(to + depth) - depth;
    unpack_row(s, row, codes);
    for (int64_t i = 0; i < depth; i++) {
        int64_t at = s->cycle ? i % s->cycle : (row * depth + i) / length;
        float scaled = scale_at(s, s->scale, at) * (float)codes[i];
        to[i] = scaled - scale_at(s, s->shift, at);
    }
}

void weight_row_floats(const struct weight_source *s, int64_t row, float *to)
{
    s = part_with(s, &row);
    int64_t depth = depth_of(s);
    if (s->type == U8) {
        row_from_codes(s, row, to);
        return;
    }
    dtype_to_float(to, (const char *)s->data + row * depth * dtype_size(s->type), s->type, depth);
    float scale = s->scale ? scale_at(s, s->scale, row) : 1;
    for (int64_t i = 0; s->scale && i < depth; i++)
        to[i] *= scale;
}
