/* kernels/product.h
 *
 * Linear layers and convolutions, y = x Wt, as their kernels share them: product.cu multiplies pairs of halves,
 * rounded_product.cu halves and coded_product.cu codes, in programs with tangents that round once (device/gpu.h).
 *
 * A convolution is a product whose left factor is never stored: the row of output position (oy, ox) under tap (ky, kx)
 * is the input's position (oy * stride - pad + ky, ox * stride - pad + kx), zeros where that lies outside; enlarging by
 * nearest neighbour is one more map of positions. A linear layer has one tap.
 */
#ifndef ZOODIP_KERNELS_PRODUCT_H
#define ZOODIP_KERNELS_PRODUCT_H

extern "C" {
#include "device/gpu.h"
}
#include "device/tiles.h"
#include "kernels/epilogue.h"

struct taps {
    int count, width; /* of the kernel: its taps, and those of one of its rows */
    int in_height, in_width, out_height, out_width, stride, pad;
    float step_y, step_x; /* up: input rows and columns per output's; 0: none */
};

static inline struct taps taps_of_linear(struct tensor y)
{
    struct taps t = {};
    t.count = t.width = t.in_height = t.out_height = t.stride = 1;
    t.in_width = t.out_width = (int)(y.height * y.width);
    return t;
}

static inline struct taps taps_of_conv(struct tensor y, struct tensor x, const struct weight *w, struct conv c)
{
    struct taps t = {};
    t.count = (int)(w->kh * w->kw);
    t.width = (int)w->kw;
    t.in_height = (int)x.height;
    t.in_width = (int)x.width;
    t.out_height = (int)y.height;
    t.out_width = (int)y.width;
    t.stride = (int)c.stride;
    t.pad = (int)c.pad;
    if (c.up) {
        t.step_y = (float)x.height / (float)y.height;
        t.step_x = (float)x.width / (float)y.width;
    }
    return t;
}

/* The position in x of a row and a column of the picture (of the enlarged one, if it is enlarged), or -1 outside. */
__device__ static inline int position_at(const struct taps &t, int row, int column)
{
    if (t.step_y > 0) { // the kernel slides over the enlarged picture
        if (row < 0 || row >= t.out_height || column < 0 || column >= t.out_width)
            return -1;
        row = min((int)floorf((float)row * t.step_y), t.in_height - 1);
        column = min((int)floorf((float)column * t.step_x), t.in_width - 1);
    }
    bool inside = row >= 0 && row < t.in_height && column >= 0 && column < t.in_width;
    return inside ? row * t.in_width + column : -1; // the product for a row far outside would overflow
}

/* ---------------------------------------------------------------------- for launchers */

struct product {
    const char *name;
    struct tensor y, x;
    const struct weight *weight;
    struct epilogue epilogue;
    struct taps taps;
};

/* Where gpu_rounds_once. */
void rounded_product(struct device *device, const struct product *p);

#endif
