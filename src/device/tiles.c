#include "device/tiles.h"

#include <math.h>
#include <string.h>

#include "device/quantize.h"

static enum tile_kind kind_of(const struct weight *w)
{
    if (w->group)
        return TILE_4;
    if (w->type == I8)
        return TILE_8;
    // one bfloat has too few bits for a number of 16 or 32 bits
    return w->type == F32 || w->bfloat ? TILE_32 : TILE_16;
}

struct tile_layout tile_layout_of(const struct weight *w)
{
    static const int64_t chunk_bytes[] = {[TILE_4] = 16, [TILE_8] = 32, [TILE_16] = 64, [TILE_32] = 128};
    struct tile_layout l = {.kind = kind_of(w), .group = w->group};
    l.rows = w->gated ? round_up(w->out / 2, 8) * 2 : w->out;
    l.chunks = (w->in + TILE_DEPTH - 1) / TILE_DEPTH;
    l.row_bytes = w->kh * w->kw * l.chunks * chunk_bytes[l.kind];
    l.groups_per_row = w->group ? (weight_depth(w) + w->group - 1) / w->group : 0;
    return l;
}

int64_t tile_place(struct weight *w, char *at)
{
    enum { ALIGN = 128 };
    struct tile_layout l = tile_layout_of(w);
    int64_t codes = round_up(w->norm ? w->out * 4 : l.rows * l.row_bytes, ALIGN);
    int64_t floats = round_up((w->norm ? w->out : l.rows) * (int64_t)sizeof(float), ALIGN);
    int64_t groups = round_up(l.rows * l.groups_per_row * 4, ALIGN);
    int64_t scale = w->norm || w->group ? 0 : floats, bias = w->has_bias ? floats : 0;
    if (at) {
        w->data = at;
        w->groups = groups ? (const uint32_t *)(at + codes) : NULL;
        w->scale = scale ? (const float *)(at + codes + groups) : NULL;
        w->bias = bias ? (const float *)(at + codes + groups + scale) : NULL;
    }
    return codes + groups + scale + bias;
}

/* -------------------------------------------------------------------------------- packing */

/* The output that a packed row holds, or -1 for padding. */
static int64_t output_of(const struct weight *w, int64_t row)
{
    if (!w->gated)
        return row;
    int64_t value = row / 16 * 8 + row % 8, half = w->out / 2;
    if (value >= half)
        return -1;
    return row % 16 < 8 ? value : value + half;
}

int64_t tile_scratch(const struct weight *w)
{
    int64_t groups = tile_layout_of(w).groups_per_row;
    return (weight_depth(w) + 1) * (int64_t)sizeof(float) + 2 * groups * (int64_t)sizeof(float);
}

/* The place of number `channel` of a tap in a packed row of 16-bit numbers with `planes` planes. */
static int64_t half_place(int64_t tap_start, int64_t channel, int64_t planes)
{
    int64_t within = channel % 16, t = within / 4, j = within % 4;
    return (tap_start + channel / TILE_DEPTH * TILE_DEPTH) * planes + channel % TILE_DEPTH / 16 * 16 + j / 2 * 8 +
           t * 2 + j % 2;
}

static uint16_t rounded(const struct weight *w, float x)
{
    return w->bfloat ? float_to_bfloat(x) : float_to_half(x);
}

static float widened(const struct weight *w, uint16_t bits)
{
    return w->bfloat ? bfloat_to_float(bits) : half_to_float(bits);
}

/* Scales a row to at most 2^14 by a power of two; returns the factor that undoes it. */
static float scale_row(float *row, int64_t count)
{
    float most = 0;
    int exponent;
    for (int64_t i = 0; i < count; i++)
        most = fabsf(row[i]) > most ? fabsf(row[i]) : most;
    if (most == 0 || !isfinite(most))
        return 1;
    frexpf(most, &exponent);
    for (int64_t i = 0; i < count; i++)
        row[i] = ldexpf(row[i], 14 - exponent);
    return ldexpf(1, exponent - 14);
}

static void put_halves(const struct weight *w, uint16_t *to, const float *row, int64_t planes)
{
    int64_t taps = w->kh * w->kw, padded = tile_layout_of(w).chunks * TILE_DEPTH;
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < w->in; c++) {
            int64_t at = half_place(tap * padded, c, planes);
            float x = row[c * taps + tap];
            to[at] = rounded(w, x);
            if (planes == 2)
                to[at + TILE_DEPTH] = rounded(w, x - widened(w, to[at]));
        }
}

static void put_codes(const struct weight *w, int8_t *to, const int8_t *codes)
{
    int64_t taps = w->kh * w->kw, padded = tile_layout_of(w).chunks * TILE_DEPTH;
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < w->in; c++)
            to[tap * padded + c] = codes[c * taps + tap];
}

static void put_nibbles(const struct weight *w, uint8_t *to, const uint8_t *codes)
{
    int64_t taps = w->kh * w->kw, padded = tile_layout_of(w).chunks * TILE_DEPTH;
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < w->in; c++) {
            int64_t within = c % 16, nibble = within % 4 + c % TILE_DEPTH / 16 * 4;
            int64_t at = (tap * padded + c / TILE_DEPTH * TILE_DEPTH) / 2 + within / 4 * 4 + nibble / 2;
            to[at] |= (uint8_t)(codes[c * taps + tap] << (nibble % 2 * 4));
        }
}

/* Row `o` as 4-bit codes; scales and shifts go to the groups of packed row `row`. */
static void read_nibbles(const struct weight *w, const struct weight_source *s, int64_t o, int64_t row, uint8_t *codes)
{
    int64_t groups = tile_layout_of(w).groups_per_row, depth = weight_depth(w);
    float *scales = (float *)(codes + (depth + 3) / 4 * 4), *shifts = scales + groups;
    uint32_t *to = (uint32_t *)w->groups + row * groups;
    weight_row_codes4(s, o, codes, scales, shifts);
    for (int64_t g = 0; g < groups; g++)
        to[g] = (uint32_t)float_to_half(scales[g]) | (uint32_t)float_to_half(8 * scales[g] - shifts[g]) << 16;
}

void tile_pack_row(const struct weight *w, const struct weight_source *source, int64_t row, void *scratch)
{
    struct tile_layout l = tile_layout_of(w);
    int64_t o = output_of(w, row);
    char *to = (char *)w->data + row * l.row_bytes;
    float scale = 0;
    memset(to, 0, (size_t)l.row_bytes);
    if (o >= 0 && l.kind == TILE_8) {
        scale = weight_row_codes8(source, o, scratch);
        put_codes(w, (int8_t *)to, scratch);
    } else if (o >= 0 && l.kind == TILE_4) {
        read_nibbles(w, source, o, row, scratch);
        put_nibbles(w, (uint8_t *)to, scratch);
    } else if (o >= 0) {
        weight_row_floats(source, o, scratch);
        scale = scale_row(scratch, weight_depth(w));
        put_halves(w, (uint16_t *)to, scratch, l.kind == TILE_32 ? 2 : 1);
    }
    if (w->scale)
        ((float *)w->scale)[row] = scale;
    if (w->bias)
        ((float *)w->bias)[row] = o >= 0 ? weight_row_bias(source, o) : 0;
}
