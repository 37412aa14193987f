#include "device/cpu/kernels.h"

#include <math.h>

#include "base/rng_core.h"
#include "device/cpu/kernels_vector.h"

#if defined(__AVX512F__)
enum { ROWS = 12 }; /* 24 sums, 2 vectors of b, one of a: of 32 registers */
#else
enum { ROWS = 6 }; /* 12 sums, 2 vectors of b, one of a: of 16 registers */
#endif
enum { PANEL = 2 * WIDTH };

#include "device/cpu/kernels_codes.h"
#include "device/cpu/kernels_transpose.h"
#include "device/cpu/kernels_winograd.h"

/* -------------------------------------------------------------------------------- products */

/* Inlined for each order of a, so that the compiler knows which of the strides is 1. */
static inline __attribute__((always_inline)) void tile_of(float *c, const float *a, int64_t row_step, int64_t k_step,
                                                          const float *b, int64_t count, bool add)
{
    vec sums[ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++)
        sums[r][0] = sums[r][1] = splat(0.f);
    for (int64_t k = 0; k < count; k++) {
        vec b0 = load(b + k * PANEL), b1 = load(b + k * PANEL + WIDTH);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            vec x = splat(a[r * row_step + k * k_step]);
            sums[r][0] = fma_of(x, b0, sums[r][0]);
            sums[r][1] = fma_of(x, b1, sums[r][1]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++)
        for (int half = 0; half < 2; half++) {
            float *at = c + r * PANEL + half * WIDTH;
            store(at, add ? load(at) + sums[r][half] : sums[r][half]);
        }
}

static void tile(float *c, const float *a, int64_t stride, const float *b, int64_t count, bool add)
{
    tile_of(c, a, stride, 1, b, count, add);
}

static void tile_across(float *c, const float *a, int64_t stride, const float *b, int64_t count, bool add)
{
    tile_of(c, a, 1, stride, b, count, add);
}

static void widen_codes(float *to, const int8_t *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = (float)from[i];
}

static void widen_bfloats(float *to, const uint16_t *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(to + i, &bits, sizeof bits);
    }
}

static void widen_halves(float *to, const uint16_t *from, int64_t count)
{
#if defined(__AVX2__)
    for (int64_t i = 0; i < count; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#elif defined(__aarch64__)
    for (int64_t i = 0; i < count; i += 4)
        vst1q_f32(to + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + i))));
#else
    for (int64_t i = 0; i < count; i++)
        to[i] = half_to_float(from[i]);
#endif
}

static void widen(float *to, const void *from, enum dtype type, int64_t count)
{
    if (type == I8)
        widen_codes(to, from, count);
    else if (type == BF16)
        widen_bfloats(to, from, count);
    else
        widen_halves(to, from, count);
}

static void widen_fours(float *to, const uint8_t *from, int64_t count)
{
    for (int64_t k = 0; k < count; k += 4, from += 4 * PANEL, to += 4 * PANEL)
        for (int half = 0; half < 2; half++) {
            ivec fours;
            memcpy(&fours, from + half * 4 * WIDTH, sizeof fours);
            for (int i = 0; i < 4; i++)
                store(to + i * PANEL + half * WIDTH, float_of((fours >> (8 * i)) & 255) - splat(128.f));
        }
}

/* Not one fused step: optimum-quanto rounds the product and then the difference. */
static void unpack(float *to, const uint8_t *from, const float *scale, const float *shift, int64_t count)
{
    vec scales[2] = {load(scale), load(scale + WIDTH)}, shifts[2] = {load(shift), load(shift + WIDTH)};
    for (int64_t k = 0; k < count; k++, from += WIDTH, to += PANEL) {
        ivec codes = load_bytes(from);
        store(to, float_of(codes & 15) * scales[0] - shifts[0]);
        store(to + WIDTH, float_of(codes >> 4) * scales[1] - shifts[1]);
    }
}

static void unpack_fours(uint8_t *to, const uint8_t *from, int64_t count)
{
    for (int64_t k = 0; k < count; k += 4, from += 4 * WIDTH, to += 4 * PANEL)
        for (int half = 0; half < 2; half++) {
            ivec fours = {0};
            for (int i = 0; i < 4; i++)
                fours |= ((load_bytes(from + i * WIDTH) >> (4 * half) & 15) + 128) << (8 * i);
            memcpy(to + half * 4 * WIDTH, &fours, sizeof fours);
        }
}

/* scale, bias, lane_bias, act of one vector of sums */
static inline vec finish_vector(const struct finish *f, const float *sums, int64_t packed, int64_t column,
                                int64_t count)
{
    vec v = load(sums);
    if (f->scale)
        v = v * load(f->scale + packed);
    if (f->bias)
        v = v + load(f->bias + packed);
    if (f->lane_bias)
        v = v + load_some(f->lane_bias + column, count);
    return v;
}

static void put(const struct finish *f, vec v, int64_t column, int64_t count)
{
    if (f->residual)
        v = v + load_some(f->residual + column, count);
    store_some(f->y + column, v, count);
}

/* A gated panel holds WIDTH values and then their gates. */
static void finish_gated(const struct finish *f)
{
    for (int64_t column = 0, p = 0; column < f->columns; column += WIDTH, p++) {
        int64_t count = f->columns - column;
        const float *sums = f->sums + p * f->panel_stride;
        vec value = finish_vector(f, sums, p * PANEL, column, count);
        vec gate = finish_vector(f, sums + WIDTH, p * PANEL + WIDTH, column, count);
        put(f, value * gelu_of(gate), column, count);
    }
}

/* The same with factors, to be made or used. */
static void finish_gated_slope(const struct finish *f)
{
    for (int64_t column = 0, p = 0; column < f->columns; column += WIDTH, p++) {
        int64_t count = f->columns - column;
        const float *sums = f->sums + p * f->panel_stride;
        float *first = f->factors + column, *second = first + f->gate_factors;
        vec value = finish_vector(f, sums, p * PANEL, column, count);
        vec gate = finish_vector(f, sums + WIDTH, p * PANEL + WIDTH, column, count);
        if (f->tangent) {
            put(f, value * load_some(first, count) + gate * load_some(second, count), column, count);
            continue;
        }
        vec gelu = gelu_of(gate);
        store_some(first, gelu, count);
        store_some(second, value * gelu_slope(gate), count);
        put(f, value * gelu, column, count);
    }
}

static void finish_act(const struct finish *f)
{
    for (int64_t column = 0; column < f->columns; column += WIDTH) {
        int64_t count = f->columns - column, p = column / PANEL;
        const float *sums = f->sums + p * f->panel_stride + column % PANEL;
        put(f, act_of(finish_vector(f, sums, column, column, count), f->act), column, count);
    }
}

static void finish_slope(const struct finish *f)
{
    for (int64_t column = 0; column < f->columns; column += WIDTH) {
        int64_t count = f->columns - column, p = column / PANEL;
        vec u = finish_vector(f, f->sums + p * f->panel_stride + column % PANEL, column, column, count);
        if (!f->tangent)
            store_some(f->factors + column, act_slope(u, f->act), count);
        put(f, f->tangent ? u * load_some(f->factors + column, count) : act_of(u, f->act), column, count);
    }
}

static void finish(const struct finish *f)
{
    if (f->act == ACT_GEGLU)
        (f->factors ? finish_gated_slope : finish_gated)(f);
    else
        (f->factors ? finish_slope : finish_act)(f);
}

/* -------------------------------------------------------------------------------- attention */

/* Scores or weights of hidden keys become `what`. */
static void hide(float *scores, int64_t keys, const int32_t *visible, float what)
{
    ivec v[2];
    memcpy(v, visible, sizeof v);
    for (int64_t k = 0; k < keys; k++)
        for (int half = 0; half < 2; half++) {
            float *at = scores + k * PANEL + half * WIDTH;
            store(at, choose(v[half] > (int32_t)k, load(at), splat(what)));
        }
}

static void softmax(struct softmax s, float *scores, int64_t keys, const int32_t *visible)
{
    if (visible)
        hide(scores, keys, visible, -1e30f);
    for (int half = 0; half < 2; half++) {
        float *at = scores + half * WIDTH;
        vec old = load(s.largest + half * WIDTH), largest = old;
        for (int64_t k = 0; k < keys; k++)
            largest = max_of(largest, load(at + k * PANEL));
        vec shrink = exp2_of(old - largest), total = splat(0.f);
        for (int64_t k = 0; k < keys; k++) {
            vec weight = exp2_of(load(at + k * PANEL) - largest);
            store(at + k * PANEL, weight);
            total = total + weight;
        }
        store(s.largest + half * WIDTH, largest);
        store(s.shrink + half * WIDTH, shrink);
        store(s.total + half * WIDTH, fma_of(load(s.total + half * WIDTH), shrink, total));
    }
    if (visible) // exp2_of ends at 2^-126, and 0 of a hidden tangent must stay 0
        hide(scores, keys, visible, 0.f);
}

static void softmax_tangent(struct softmax s, float *mean, float *moved, float *scores, const float *weights,
                            int64_t keys)
{
    const vec ln2 = splat(0.6931471805599453f), least = splat(0x1p-100f);
    for (int half = 0; half < 2; half++) {
        int64_t first = half * WIDTH;
        vec old = load(mean + first), sum = splat(0.f);
        for (int64_t k = 0; k < keys; k++) {
            int64_t at = k * PANEL + first;
            sum = fma_of(load(weights + at), load(scores + at) - old, sum);
        }
        vec step = sum / load(s.total + first), now = old + step;
        for (int64_t k = 0; k < keys; k++) {
            int64_t at = k * PANEL + first;
            vec weight = load(weights + at); // products with the least would be denormal, which is slow
            store(scores + at, choose(weight > least, weight * ln2 * (load(scores + at) - now), splat(0.f)));
        }
        store(mean + first, now);
        store(moved + first, step * ln2);
    }
}

static void rescale(float *o, const float *factor, int64_t count)
{
    bool same = true; // the usual case after some blocks: the largest score has been seen
    for (int64_t i = 0; i < PANEL; i++)
        same = same && factor[i] == 1;
    if (same)
        return;
    vec low = load(factor), high = load(factor + WIDTH);
    for (int64_t i = 0; i < count; i++, o += PANEL) {
        store(o, load(o) * low);
        store(o + WIDTH, load(o + WIDTH) * high);
    }
}

static void rescale_tangent(float *u, const float *o, const float *factor, const float *moved, int64_t count)
{
    for (int half = 0; half < 2; half++) {
        vec by = load(factor + half * WIDTH), off = -load(moved + half * WIDTH);
        for (int64_t i = 0; i < count; i++) {
            int64_t at = i * PANEL + half * WIDTH;
            store(u + at, by * fma_of(off, load(o + at), load(u + at)));
        }
    }
}

/* -------------------------------------------------------------------------------- rows of numbers */

static void scale_shift(float *y, const float *x, const float *scale, const float *shift, int64_t count, enum act act)
{
    for (int64_t i = 0; i < count; i += WIDTH) {
        int64_t left = count - i;
        vec v = fma_of(load_some(x + i, left), load_some(scale + i, left), load_some(shift + i, left));
        store_some(y + i, act == ACT_SILU ? v * logistic(v) : v, left);
    }
}

static void norm_slope(float *y, const float *dot, const float *x, const struct norm_slope *s, int64_t count,
                       enum act act)
{
    for (int64_t i = 0; i < count; i += WIDTH) {
        int64_t left = count - i;
        vec at = load_some(x + i, left), scale = load_some(s->scale + i, left);
        vec v = load_some(dot + i, left) - load_some(s->dot_mean + i, left) + load_some(s->rest + i, left);
        v = scale * fma_of(load_some(s->pull + i, left), load_some(s->mean + i, left) - at, v);
        if (act == ACT_SILU)
            v = v * act_slope(fma_of(at, scale, load_some(s->shift + i, left)), ACT_SILU);
        store_some(y + i, v, left);
    }
}

static void gather_moments(double *restrict sum, double *restrict square, const float *restrict x, int64_t count)
{
    for (int64_t c = 0; c < count; c++) {
        sum[c] += (double)x[c];
        square[c] += (double)x[c] * (double)x[c];
    }
}

static void gather_products(double *restrict sum, double *restrict product, const float *restrict a,
                            const float *restrict b, int64_t count)
{
    for (int64_t c = 0; c < count; c++) {
        sum[c] += (double)a[c];
        product[c] += (double)a[c] * (double)b[c];
    }
}

enum { STRANDS = 8 }; /* independent sums: number i is added to strand i % STRANDS */

static double total_of(const double strands[STRANDS])
{
    double total = 0;
    for (int s = 0; s < STRANDS; s++)
        total += strands[s];
    return total;
}

static void row_moments(double *sum, double *square, const float *x, int64_t count)
{
    double sums[STRANDS] = {0}, squares[STRANDS] = {0};
    int64_t i = 0;
    for (; i + STRANDS <= count; i += STRANDS)
        gather_moments(sums, squares, x + i, STRANDS);
    gather_moments(sums, squares, x + i, count - i);
    *sum = total_of(sums);
    *square = total_of(squares);
}

static void row_products(double *sum, double *product, const float *a, const float *b, int64_t count)
{
    double sums[STRANDS] = {0}, products[STRANDS] = {0};
    int64_t i = 0;
    for (; i + STRANDS <= count; i += STRANDS)
        gather_products(sums, products, a + i, b + i, STRANDS);
    gather_products(sums, products, a + i, b + i, count - i);
    *sum = total_of(sums);
    *product = total_of(products);
}

static double squared_error(const float *a, const float *b, int64_t count)
{
    double strands[STRANDS] = {0};
    for (int64_t i = 0; i < count; i += STRANDS)
        for (int64_t s = 0; s < STRANDS && i + s < count; s++) {
            double difference = (double)a[i + s] - (double)b[i + s];
            strands[s] += difference * difference;
        }
    return total_of(strands);
}

static double error_product(const float *a, const float *b, const float *dot, int64_t count)
{
    double strands[STRANDS] = {0};
    for (int64_t i = 0; i < count; i += STRANDS)
        for (int64_t s = 0; s < STRANDS && i + s < count; s++)
            strands[s] += ((double)a[i + s] - (double)b[i + s]) * (double)dot[i + s];
    return total_of(strands);
}

/* -------------------------------------------------------------------------------- draws */

static void normals(uint64_t seed, uint64_t step, uint32_t stream, int64_t count, float *out)
{
    enum { BLOCKS = 64 };
    uint32_t words[4 * BLOCKS];
    float drawn[4 * BLOCKS];
    for (int64_t done = 0; done < count; done += 4 * BLOCKS) {
        int64_t left = count - done, wanted = left < 4 * BLOCKS ? left : 4 * BLOCKS;
        for (uint32_t b = 0; b < BLOCKS; b++) // numbers past the last are drawn too, so that all loops have one length
            rng_block(seed, step, stream, (uint32_t)(done / 4) + b, words + 4 * b);
        for (int i = 0; i < 4 * BLOCKS; i += 2)
            rng_normal_pair(words + i, drawn + i);
        memcpy(out + done, drawn, (size_t)wanted * sizeof *out);
    }
}

const struct kernels KERNELS = {
#if defined(__AVX512F__)
    .name = "avx512",
#elif defined(__AVX2__)
    .name = "avx2",
#else
    .name = "generic",
#endif
    .rows = ROWS,
    .panel = PANEL,
    .width = WIDTH,
    .tile = tile,
    .tile_across = tile_across,
    .widen = widen,
    .widen_fours = widen_fours,
    .encode = encode,
    .encode_across = encode_across,
    .encode_columns = encode_columns,
    .unpack = unpack,
    .unpack_fours = unpack_fours,
    .winograd_source = winograd_source,
    .winograd_weights = winograd_weights,
    .winograd_result = winograd_result,
    .finish = finish,
    .softmax = softmax,
    .softmax_tangent = softmax_tangent,
    .rescale = rescale,
    .rescale_tangent = rescale_tangent,
    .rows_to_panel = rows_to_panel,
    .panel_to_rows = panel_to_rows,
    .scale_shift = scale_shift,
    .norm_slope = norm_slope,
    .gather_moments = gather_moments,
    .gather_products = gather_products,
    .row_moments = row_moments,
    .row_products = row_products,
    .squared_error = squared_error,
    .error_product = error_product,
    .normals = normals,
};
