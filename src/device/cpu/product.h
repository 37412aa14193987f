/* device/cpu/product.h
 *
 * One product y = x Wt, of a linear layer or a convolution, as product.c, product8.c and winograd.c share it: a tall matrix of rows
 * times the weight's panels, cut into tasks of (block of rows, chunk of panels). A row is a position of a lane, or in
 * winograd.c a square of positions.
 */
#ifndef ZOODIP_DEVICE_CPU_PRODUCT_H
#define ZOODIP_DEVICE_CPU_PRODUCT_H

#include "device/cpu/cpu.h"

struct product {
    const struct cpu *cpu;
    const struct kernels *kernels;
    struct tensor y, x;
    const struct weight *weight;
    struct epilogue epilogue;
    int64_t primal;         /* lanes of y, which have a bias */
    struct tensor factors;  /* of the act, which primal lanes write and tangents read; base NULL: none */
    const int32_t *primals; /* [lanes of y]: each tangent's, where there are factors */
    bool gathered;          /* a convolution with taps, stride or enlargement */
    struct conv conv;
    int64_t positions; /* of a lane of y */
    int64_t depth, block_depth;
    int64_t term_bytes; /* of one term of a panel */
    int64_t rows, block_rows, row_blocks;
    int64_t panels, chunk_panels;
};

/* Cuts p->rows and p->panels into tasks, at most so large, but enough of them for all threads; returns their number.
 * Sets block_rows, a multiple of the kernels' rows, row_blocks and chunk_panels. */
int64_t product_cut(struct product *p, int64_t most_rows, int64_t most_columns);

/* The position in x under a tap of a position in y, or -1 outside. */
int64_t product_under_tap(const struct product *p, int64_t position, int64_t tap);

/* The channels of x at a row and a column of the picture, enlarged if p->conv says so, or NULL outside. */
const float *product_source(const struct product *p, int64_t lane, int64_t row, int64_t column);

/* Terms [first, first + count) of a panel, [count][panel]: in place, or in `wide`, which has room for them. */
const float *product_terms(const struct product *p, float *wide, int64_t panel, int64_t first, int64_t count);

/* Where a panel's terms from `first` on lie in the store. */
const char *product_panel(const struct product *p, int64_t panel, int64_t first);

/* Writes `rows` rows of y from sums [panels][padded][panel]. */
void product_finish_rows(const struct product *p, const float *sums, int64_t padded, int64_t first_row, int64_t rows,
                         int64_t first_panel, int64_t panels);

/* What is the same for all rows that end at the same panels, and then one row of sums into y. f->sums and
 * f->panel_stride are the caller's. */
struct finish product_finish(const struct product *p, int64_t first_panel, int64_t panels);
void product_finish_row(const struct product *p, struct finish *f, int64_t lane, int64_t position, int64_t first_panel);

/* A product of tangents in 8 bits (product8.c): x of codes, with code_rows, both dense; every lane is a tangent. The
 * outliers of `coded` stay floats. */
void product8_multiply(struct product *p, struct tensor codes, struct tensor code_rows, const struct coded *coded);

/* A 3x3 convolution in fewer multiplications (winograd.c): whether it is worth it, which follows from one lane's shape,
 * and the product. */
bool winograd_serves(const struct product *p);
void winograd_multiply(struct product *p);

#endif
