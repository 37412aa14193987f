/* device/cpu/kernels.h
 *
 * The inner loops, one table for each instruction set that kernels.c was compiled for. A panel is `panel` columns of a
 * product's right side, stored [k][panel]; a tile is `rows` rows of the left side under one panel, stored
 * [rows][panel].
 *
 * Tiles are always computed whole, on padded data: the order of a sum's terms depends on the length of the sum alone.
 */
#ifndef ZOODIP_DEVICE_CPU_KERNELS_H
#define ZOODIP_DEVICE_CPU_KERNELS_H

#include "device/device.h"

/* One finished row of sums, to be written to y, for all panels of a task. If `factors` are given, the row of an
 * evaluation leaves the act's derivative there, and a tangent's row is multiplied by it instead of passing the act. */
struct finish {
    float *y;             /* [columns] */
    const float *sums;    /* the row's [panel] sums under the first panel */
    int64_t panel_stride; /* distance to those under the next one */
    int64_t columns;
    const float *scale, *bias;         /* of the packed columns from the first panel on; NULL: none */
    const float *lane_bias, *residual; /* [columns] or NULL */
    enum act act;
    float *factors;       /* [columns] act'(u); if gated, gelu(gate), and from gate_factors on, value gelu'(gate) */
    int64_t gate_factors; /* distance from the first to the second */
    bool tangent;         /* factors, if any, are read: y = sums * factors + residual; gated: both products' sum */
};

/* Running softmax of `panel` queries over blocks of keys. */
struct softmax {
    float *largest; /* [panel]: the largest score so far */
    float *total;   /* [panel]: the sum of weights */
    float *shrink;  /* [panel]: the factor for older sums */
};

/* For each channel, what a norm's tangent is made from: with x^ = (x - mean) r,
 *
 *     gain r (dot - mean dot - x^ mean(x^ dot)) = scale ((dot - dot_mean) - pull (x - mean) + rest),
 *
 * and that times act'(x scale + shift). rest is what rounding to float took from both means: differences of numbers
 * far from zero keep their digits. */
struct norm_slope {
    float *scale, *shift, *mean, *dot_mean, *pull, *rest;
};

/* What belongs to the codes of a row's terms: a number is scale * code; excess is 128 times the sum of the codes, which
 * int8.h's products have too much. */
struct row_codes {
    float scale;
    int32_t excess;
};

struct kernels {
    const char *name;
    int64_t rows, panel;
    int64_t width; /* numbers in a vector; panel = 2 * width */

    /* c [rows][panel] = (add ? c : 0) + sum over k < count of a(row, k) * b[k][panel]. a(row, k) is a[row * stride + k]
     * in the first, a[k * stride + row] in the second. */
    void (*tile)(float *c, const float *a, int64_t stride, const float *b, int64_t count, bool add);
    void (*tile_across)(float *c, const float *a, int64_t stride, const float *b, int64_t count, bool add);

    /* count numbers kept as F16, BF16 or I8, count a multiple of the panel, to floats (codes unscaled). */
    void (*widen)(float *to, const void *from, enum dtype type, int64_t count);

    /* Codes + 128 of four terms together, [count / 4][panel][4], to numbers [count][panel]. */
    void (*widen_fours)(float *to, const uint8_t *from, int64_t count);

    /* x [count] as codes of 8 bits, scale * code, scale = max |x| / 127; if a number is not finite, scale is not. */
    void (*encode)(int8_t *to, struct row_codes *row, const float *x, int64_t count);

    /* The same of each column of x [count][columns], with `stride` from row to row: codes [columns][terms], terms >=
     * count a multiple of 4; beyond count they are 0. */
    void (*encode_across)(int8_t *to, int64_t terms, struct row_codes *rows, const float *x, int64_t stride,
                          int64_t count, int64_t columns);

    /* Columns of x [count][panel] as codes + 128, [terms / 4][panel][4], terms >= count; beyond count they are of 0. A
     * column's scale [panel] is max |x| / 127. */
    void (*encode_columns)(uint8_t *to, float *scale, const float *x, int64_t count, int64_t terms);

    /* count terms of 4-bit codes [count][panel / 2], byte j holding columns j and j + width (in its high half), to
     * scale * code - shift [count][panel]; scale, shift [panel]. */
    void (*unpack)(float *to, const uint8_t *from, const float *scale, const float *shift, int64_t count);

    /* The codes alone, + 128, of four terms together [count / 4][panel][4]. */
    void (*unpack_fours)(uint8_t *to, const uint8_t *from, int64_t count);

    /* The transforms of winograd.c, whose squares are numbered row by row. What lies under a square, from [36][count],
     * and the taps of a 3x3 weight, from [9][count], count a multiple of the panel, become 36 rows of count numbers,
     * `stride` apart or dense; 36 rows of sums, [panel] each, become the 16 of a square. */
    void (*winograd_source)(float *to, const float *const *from, int64_t count);
    void (*winograd_weights)(float *to, int64_t stride, const float *const *from, int64_t count);
    void (*winograd_result)(float *to, int64_t to_stride, const float *from, int64_t stride);

    void (*finish)(const struct finish *f);

    /* scores [keys][panel], in units of log2, become weights; those of keys >= visible[query] become 0, if visible is
     * given. */
    void (*softmax)(struct softmax s, float *scores, int64_t keys, const int32_t *visible);

    /* For the same keys and their weights: a tangent's scores, in units of log2 too, become weight (score - mean) in
     * natural units. Before that, mean [panel], 0 before the first keys, becomes the mean of all scores so far;
     * moved [panel] says by how much it has moved, in natural units. */
    void (*softmax_tangent)(struct softmax s, float *mean, float *moved, float *scores, const float *weights,
                            int64_t keys);

    /* o [count][panel] *= factor [panel]. */
    void (*rescale)(float *o, const float *factor, int64_t count);

    /* u [count][panel] = factor [panel] * (u - moved [panel] * o). */
    void (*rescale_tangent)(float *u, const float *o, const float *factor, const float *moved, int64_t count);

    /* Rows of count numbers, up to a panel's columns of them and `stride` apart, and a panel [count][panel]: each row
     * times `factor` becomes a column, the last row all further ones too; the first columns times 1 / divisor [panel]
     * become rows. */
    void (*rows_to_panel)(float *to, const float *from, int64_t stride, int64_t rows, int64_t count, float factor);
    void (*panel_to_rows)(float *to, int64_t stride, int64_t rows, const float *from, int64_t count,
                          const float *divisor);

    /* y = act(x * scale + shift), act NONE or SILU; y may be x. */
    void (*scale_shift)(float *y, const float *x, const float *scale, const float *shift, int64_t count, enum act act);

    /* The tangent of scale_shift, see struct norm_slope; y may be dot. */
    void (*norm_slope)(float *y, const float *dot, const float *x, const struct norm_slope *s, int64_t count,
                       enum act act);

    /* sum[c] += x[c], square[c] += x[c]^2; sum[c] += a[c], product[c] += a[c] b[c]. */
    void (*gather_moments)(double *sum, double *square, const float *x, int64_t count);
    void (*gather_products)(double *sum, double *product, const float *a, const float *b, int64_t count);

    /* Sums of x and of x^2, of a and of a b, of (a - b)^2, and of (a - b) dot, over count numbers, each in one fixed
     * order. */
    void (*row_moments)(double *sum, double *square, const float *x, int64_t count);
    void (*row_products)(double *sum, double *product, const float *a, const float *b, int64_t count);
    double (*squared_error)(const float *a, const float *b, int64_t count);
    double (*error_product)(const float *a, const float *b, const float *dot, int64_t count);

    /* rng_normals of base/rng.h, from number 0: the same bits, with fmaf as one instruction if the CPU has it. */
    void (*normals)(uint64_t seed, uint64_t step, uint32_t stream, int64_t count, float *out);
};

extern const struct kernels kernels_generic;
#ifdef ZOODIP_X86
extern const struct kernels kernels_avx2, kernels_avx512;
#endif

#endif
