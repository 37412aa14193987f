#include "device/cpu/product.h"

#include <string.h>

/* A 3x3 convolution of stride 1 as Winograd's F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308): a square of 4 x 4
 * positions is made from the 6 x 6 under it by 36 multiplications a channel instead of 144,
 *
 *     y = At [ sum over channels of (G w Gt) * (Bt x B) ] A,
 *
 * which are 36 products of matrices: rows are squares, terms are channels. Weights are transformed as they are needed,
 * from their codes. In float, with the polynomials' points at 0, +-1/sqrt 2, +-sqrt 2 and infinity, whose numbers
 * are within a factor of three of each other, a result is off by half as much as with the usual 0, +-1 and +-2.
 *
 * A square's numbers depend on nothing but what lies under it, and the order of its sums on the number of channels
 * alone, so the same holds as for product.c. */

enum {
    SIDE = 4,               /* of a square of y */
    UNDER = SIDE + 2,       /* side of what lies under it */
    POINTS = UNDER * UNDER, /* products */
    TAPS = 9,
    DEPTH = 64,      /* most channels in a block */
    BLOCK_ROWS = 48, /* most squares in a task */
    CHUNK = 160,     /* most packed columns in a task */
    WIDEST = 32,     /* most columns in a panel */
    SKEW = 16,       /* numbers between points' data, whose ends would else share the few places of a cache */
};

/* A task's place and its thread's scratch, which stays in the L2 cache. */
struct block {
    int64_t first_row, rows, padded; /* squares; padded: to whole tiles of the kernels */
    int64_t first_panel, panels;
    float *taps;                         /* [TAPS][channels of a block][panel] */
    float *weights;                      /* [POINTS][channels of a block][panel] */
    float *x;                            /* [padded][POINTS][channels of a block] */
    float *sums;                         /* [panels][POINTS][padded][panel] */
    int64_t weights_stride, sums_stride; /* from one point to the next */
    float *square;                       /* [SIDE * SIDE][panels][panel] */
};
_Static_assert((TAPS * DEPTH * WIDEST + POINTS * (DEPTH * WIDEST + SKEW + BLOCK_ROWS * DEPTH) +
                POINTS * (BLOCK_ROWS * CHUNK + SKEW * (CHUNK / 8)) + SIDE * SIDE * CHUNK) *
                       sizeof(float) <=
                   SCRATCH_BYTES,
               "a task's scratch");

static int64_t squares_across(const struct product *p)
{
    return (p->y.width + SIDE - 1) / SIDE;
}

static int64_t squares_of_lane(const struct product *p)
{
    return (p->y.height + SIDE - 1) / SIDE * squares_across(p);
}

/* The first row and column of a square. */
static void square_corner(const struct product *p, int64_t square, int64_t *row, int64_t *column)
{
    *row = square / squares_across(p) * SIDE;
    *column = square % squares_across(p) * SIDE;
}

/* Channels [first, first + count) under one square of the task. */
static void transform_square(const struct product *p, const struct block *b, int64_t r, int64_t first, int64_t count)
{
    static const float outside[DEPTH];
    const float *under[POINTS];
    int64_t lane = (b->first_row + r) / squares_of_lane(p), row, column;
    square_corner(p, (b->first_row + r) % squares_of_lane(p), &row, &column);
    for (int64_t i = 0; i < POINTS; i++) {
        const float *from = product_source(p, lane, row - p->conv.pad + i / UNDER, column - p->conv.pad + i % UNDER);
        under[i] = from ? from + first : outside;
    }
    p->kernels->winograd_source(b->x + r * POINTS * count, under, count);
}

static void transform_squares(const struct product *p, const struct block *b, int64_t first, int64_t count)
{
    for (int64_t r = 0; r < b->rows; r++)
        transform_square(p, b, r, first, count);
    memset(b->x + b->rows * POINTS * count, 0, (size_t)((b->padded - b->rows) * POINTS * count) * sizeof *b->x);
}

static void transform_weights(const struct product *p, const struct block *b, int64_t panel, int64_t first,
                              int64_t count)
{
    const float *taps[TAPS];
    int64_t numbers = count * p->kernels->panel;
    for (int64_t tap = 0; tap < TAPS; tap++)
        taps[tap] = product_terms(p, b->taps + tap * numbers, panel, tap * p->weight->in + first, count);
    p->kernels->winograd_weights(b->weights, b->weights_stride, taps, numbers);
}

/* Adds channels [first, first + count) to the sums of panel n of the task. */
static void add_channels(const struct product *p, const struct block *b, int64_t n, int64_t first, int64_t count)
{
    const struct kernels *k = p->kernels;
    transform_weights(p, b, b->first_panel + n, first, count);
    float *sums = b->sums + n * POINTS * b->sums_stride;
    for (int64_t i = 0; i < POINTS; i++)
        for (int64_t r = 0; r < b->padded; r += k->rows)
            k->tile(sums + i * b->sums_stride + r * k->panel, b->x + (r * POINTS + i) * count, POINTS * count,
                    b->weights + i * b->weights_stride, count, first > 0);
}

/* The square's positions that are in the picture, into y. */
static void finish_square(const struct product *p, const struct block *b, struct finish *f, int64_t r)
{
    const struct kernels *k = p->kernels;
    int64_t lane = (b->first_row + r) / squares_of_lane(p), row, column, width = b->panels * k->panel;
    for (int64_t n = 0; n < b->panels; n++)
        k->winograd_result(b->square + n * k->panel, width, b->sums + n * POINTS * b->sums_stride + r * k->panel,
                           b->sums_stride);
    square_corner(p, (b->first_row + r) % squares_of_lane(p), &row, &column);
    for (int64_t i = 0; i < SIDE * SIDE; i++) {
        int64_t y = row + i / SIDE, x = column + i % SIDE;
        if (y >= p->y.height || x >= p->y.width)
            continue;
        f->sums = b->square + i * width;
        product_finish_row(p, f, lane, y * p->y.width + x, b->first_panel);
    }
}

static void winograd_task(void *arg, int64_t i, int thread)
{
    const struct product *p = arg;
    const struct kernels *k = p->kernels;
    struct block b = {.first_row = i % p->row_blocks * p->block_rows,
                      .first_panel = i / p->row_blocks * p->chunk_panels};
    b.rows = smaller(p->block_rows, p->rows - b.first_row);
    b.padded = round_up(b.rows, k->rows);
    b.panels = smaller(p->chunk_panels, p->panels - b.first_panel);
    b.weights_stride = p->block_depth * k->panel + SKEW;
    b.sums_stride = b.padded * k->panel + SKEW;
    b.taps = cpu_scratch(p->cpu, thread);
    b.weights = b.taps + TAPS * DEPTH * k->panel;
    b.x = b.weights + POINTS * b.weights_stride;
    b.sums = b.x + b.padded * POINTS * p->block_depth;
    b.square = b.sums + b.panels * POINTS * b.sums_stride;

    for (int64_t first = 0; first < p->weight->in; first += p->block_depth) {
        int64_t count = smaller(p->block_depth, p->weight->in - first);
        transform_squares(p, &b, first, count);
        for (int64_t n = 0; n < b.panels; n++)
            add_channels(p, &b, n, first, count);
    }
    struct finish f = product_finish(p, b.first_panel, b.panels);
    f.panel_stride = k->panel;
    for (int64_t r = 0; r < b.rows; r++)
        finish_square(p, &b, &f, r);
}

/* Measured with 1, 3 and 9 lanes: fewer channels, a square or two, or squares of which most lies outside are faster as
 * taps. And a network's last convolution, of few outputs, would be faster but keeps its digits: no layer after it averages
 * what it rounds. */
bool winograd_serves(const struct product *p)
{
    const struct weight *w = p->weight;
    if (w->kh != 3 || w->kw != 3 || p->conv.stride != 1 || w->gated)
        return false;
    int64_t squares = squares_of_lane(p);
    return w->in >= 8 && w->out >= 16 && squares >= 4 && 2 * p->positions >= SIDE * SIDE * squares;
}

void winograd_multiply(struct product *p)
{
    int64_t channels = p->weight->in, blocks = (channels + DEPTH - 1) / DEPTH;
    p->block_depth = round_up((channels + blocks - 1) / blocks, 8);
    p->rows = p->y.lanes * squares_of_lane(p);
    pool_run(p->cpu->pool, product_cut(p, BLOCK_ROWS, CHUNK), winograd_task, p);
}
