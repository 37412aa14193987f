#include "device/cpu/product.h"

#include <string.h>

/* y = x Wt for linear layers and convolutions alike. Row r of the left side is a position of a lane: its channels, or,
 * for a convolution, the channels under each tap one after the other, which are gathered only for the current block of
 * rows. All lanes' rows form one tall matrix, so that a weight is read once for all of them.
 *
 * The sum over k is cut into blocks of a length that follows from k alone, each block is summed term by term, and the
 * blocks are added in order. So a number of y depends neither on how rows and columns are divided among tasks nor on
 * other rows. Tasks are (block of rows, chunk of panels).
 *
 * Tangents are rows like all others, without bias. With an act, or in codes (product8.c), they make a second
 * product, after that of the primal lanes, which leaves the numbers by which the tangents' sums are multiplied. */

enum {
    DEPTH = 320,     /* most terms in a block: a panel's block stays in the L1 cache, with a tile of x */
    BLOCK_ROWS = 96, /* most rows in a task: their block of x stays in the L2 cache */
    CHUNK = 320,     /* most packed columns in a task */
};
_Static_assert((BLOCK_ROWS * (DEPTH + CHUNK) + 32 * DEPTH) * sizeof(float) <= SCRATCH_BYTES, "a task's scratch");

/* A task's place and its thread's scratch. */
struct block {
    int64_t first_row, rows; /* rows: rounded up to whole tiles in `tiles` */
    int64_t tiles;
    int64_t first_panel, panels;
    float *x;    /* [tiles * tile rows][terms of the block of k] */
    float *wide; /* [terms][panel] */
    float *sums; /* [panels][tiles][tile rows][panel] */
};

/* The source of target position `at` of an enlarged picture: F.interpolate(mode="nearest") computes it in float. */
static int64_t nearest(int64_t at, int64_t in, int64_t out)
{
    int64_t from = (int64_t)((float)at * ((float)in / (float)out));
    return smaller(from, in - 1);
}

/* The position in x of a row and a column of the picture, enlarged if p->conv says so, or -1 outside. */
static int64_t position_of(const struct product *p, int64_t row, int64_t column)
{
    int64_t height = p->conv.up ? p->y.height : p->x.height, width = p->conv.up ? p->y.width : p->x.width;
    if (row < 0 || row >= height || column < 0 || column >= width)
        return -1;
    if (p->conv.up) {
        row = nearest(row, p->x.height, height);
        column = nearest(column, p->x.width, width);
    }
    return row * p->x.width + column;
}

const float *product_source(const struct product *p, int64_t lane, int64_t row, int64_t column)
{
    int64_t position = position_of(p, row, column);
    return position < 0 ? NULL : tensor_row(p->x, lane, position);
}

int64_t product_under_tap(const struct product *p, int64_t position, int64_t tap)
{
    int64_t row = position / p->y.width * p->conv.stride - p->conv.pad + tap / p->weight->kw;
    int64_t column = position % p->y.width * p->conv.stride - p->conv.pad + tap % p->weight->kw;
    return position_of(p, row, column);
}

/* Terms [first, first + count) of one row. */
static void gather_row(const struct product *p, float *to, int64_t row, int64_t first, int64_t count)
{
    int64_t lane = row / p->positions, position = row % p->positions, channels = p->x.channels;
    if (!p->gathered) {
        memcpy(to, tensor_row(p->x, lane, position) + first, (size_t)count * sizeof *to);
        return;
    }
    for (int64_t tap = first / channels, skip = first % channels; count > 0; tap++, skip = 0) {
        int64_t length = smaller(channels - skip, count);
        int64_t from = product_under_tap(p, position, tap);
        if (from >= 0)
            memcpy(to, tensor_row(p->x, lane, from) + skip, (size_t)length * sizeof *to);
        else
            memset(to, 0, (size_t)length * sizeof *to);
        to += length;
        count -= length;
    }
}

static void gather(const struct product *p, const struct block *b, int64_t first, int64_t count)
{
    for (int64_t r = 0; r < b->rows; r++)
        gather_row(p, b->x + r * count, b->first_row + r, first, count);
    memset(b->x + b->rows * count, 0, (size_t)((b->tiles * p->kernels->rows - b->rows) * count) * sizeof *b->x);
}

const char *product_panel(const struct product *p, int64_t panel, int64_t first)
{
    return (const char *)p->weight->data + (panel * p->depth + first) * p->term_bytes;
}

/* 4-bit terms [first, first + count) of a panel become numbers, run by run of terms that share a group. The file counts
 * (channel, tap), so that under one tap a group holds every taps-th of its numbers. */
static void unpack_terms(const struct product *p, float *to, int64_t panel, int64_t first, int64_t count)
{
    const struct weight *w = p->weight;
    int64_t width = p->kernels->panel, taps = w->kh * w->kw, groups = p->depth / w->group;
    for (int64_t term = first; term < first + count;) {
        int64_t tap = term / w->in, channel = term % w->in, group = (channel * taps + tap) / w->group;
        int64_t next_channel = ((group + 1) * w->group - tap + taps - 1) / taps;
        int64_t run = smaller(smaller(next_channel, w->in) - channel, first + count - term);
        int64_t scales = (panel * groups + group) * width;
        p->kernels->unpack(to, (const uint8_t *)product_panel(p, panel, term), w->scale + scales, w->shift + scales,
                           run);
        to += run * width;
        term += run;
    }
}

const float *product_terms(const struct product *p, float *wide, int64_t panel, int64_t first, int64_t count)
{
    const char *at = product_panel(p, panel, first);
    if (p->weight->type == F32)
        return (const float *)at;
    if (p->weight->group)
        unpack_terms(p, wide, panel, first, count);
    else if (in_fours(p->weight))
        p->kernels->widen_fours(wide, (const uint8_t *)at, count);
    else
        p->kernels->widen(wide, at, p->weight->type, count * p->kernels->panel);
    return wide;
}

/* Adds terms [first, first + count) of panel n of the task to its sums, while prefetching the terms that come next:
 * weights mostly come from memory, and the arithmetic of a few rows does not hide that. */
static void add_terms(const struct product *p, const struct block *b, int64_t n, int64_t first, int64_t count)
{
    const struct kernels *k = p->kernels;
    bool last = n + 1 == b->panels;
    const char *next = product_panel(p, b->first_panel + (last ? 0 : n + 1), last ? first + count : first);
    int64_t next_terms = last ? smaller(count, p->depth - first - count) : count;
    int64_t lines = next_terms * p->term_bytes / 64;

    const float *terms = product_terms(p, b->wide, b->first_panel + n, first, count);
    float *sums = b->sums + n * b->tiles * k->rows * k->panel;
    for (int64_t t = 0; t < b->tiles; t++) {
        for (int64_t line = t * lines / b->tiles; line < (t + 1) * lines / b->tiles; line++)
            __builtin_prefetch(next + line * 64, 0, 2);
        k->tile(sums + t * k->rows * k->panel, b->x + t * k->rows * count, count, terms, count, first > 0);
    }
}

/* The channel of y that a panel begins with. */
static int64_t panel_column(const struct product *p, int64_t panel)
{
    return panel * (p->weight->gated ? p->kernels->width : p->kernels->panel);
}

struct finish product_finish(const struct product *p, int64_t first_panel, int64_t panels)
{
    int64_t column = panel_column(p, first_panel), end = panel_column(p, first_panel + panels);
    return (struct finish){
        .columns = smaller(end, p->y.channels) - column,
        .scale = p->weight->type == I8 ? p->weight->scale + first_panel * p->kernels->panel : NULL,
        .act = p->epilogue.act,
        .gate_factors = p->y.channels,
    };
}

void product_finish_row(const struct product *p, struct finish *f, int64_t lane, int64_t position, int64_t first_panel)
{
    const struct tensor *bias = p->epilogue.lane_bias, *residual = p->epilogue.residual;
    int64_t column = panel_column(p, first_panel);
    bool tangent = lane >= p->primal;
    f->tangent = tangent;
    f->y = tensor_row(p->y, lane, position) + column;
    f->bias = p->weight->bias && !tangent ? p->weight->bias + first_panel * p->kernels->panel : NULL;
    f->lane_bias = bias && !tangent ? tensor_row(*bias, lane, 0) + column : NULL;
    f->residual = residual ? tensor_row(*residual, lane, position) + column : NULL;
    if (p->factors.base)
        f->factors = tensor_row(p->factors, tangent ? p->primals[lane] : lane, position) + column;
    p->kernels->finish(f);
}

void product_finish_rows(const struct product *p, const float *sums, int64_t padded, int64_t first_row, int64_t rows,
                         int64_t first_panel, int64_t panels)
{
    struct finish f = product_finish(p, first_panel, panels);
    f.sums = sums;
    f.panel_stride = padded * p->kernels->panel;
    int64_t lane = first_row / p->positions, position = first_row % p->positions;
    for (int64_t r = 0; r < rows; r++, f.sums += p->kernels->panel) {
        product_finish_row(p, &f, lane, position, first_panel);
        if (++position == p->positions)
            position = 0, lane++;
    }
}

static void product_task(void *arg, int64_t i, int thread)
{
    const struct product *p = arg;
    const struct kernels *k = p->kernels;
    struct block b = {.first_row = i % p->row_blocks * p->block_rows,
                      .first_panel = i / p->row_blocks * p->chunk_panels};
    b.rows = smaller(p->block_rows, p->rows - b.first_row);
    b.tiles = (b.rows + k->rows - 1) / k->rows;
    b.panels = smaller(p->chunk_panels, p->panels - b.first_panel);
    b.wide = cpu_scratch(p->cpu, thread);
    b.x = b.wide + DEPTH * k->panel;
    b.sums = b.x + BLOCK_ROWS * DEPTH;

    for (int64_t first = 0; first < p->depth; first += p->block_depth) {
        int64_t count = smaller(p->block_depth, p->depth - first);
        gather(p, &b, first, count);
        for (int64_t n = 0; n < b.panels; n++)
            add_terms(p, &b, n, first, count);
    }
    product_finish_rows(p, b.sums, b.tiles * k->rows, b.first_row, b.rows, b.first_panel, b.panels);
}

int64_t product_cut(struct product *p, int64_t most_rows, int64_t most_columns)
{
    const struct kernels *k = p->kernels;
    int64_t wanted = pool_threads(p->cpu->pool) == 1 ? 1 : 6 * pool_threads(p->cpu->pool);
    int64_t fewest_rows = 4 * k->rows;
    p->chunk_panels = smaller(most_columns / k->panel, p->panels);
    for (;;) {
        p->row_blocks = (p->rows + most_rows - 1) / most_rows;
        p->block_rows = round_up((p->rows + p->row_blocks - 1) / p->row_blocks, k->rows);
        p->row_blocks = (p->rows + p->block_rows - 1) / p->block_rows;
        int64_t tasks = p->row_blocks * ((p->panels + p->chunk_panels - 1) / p->chunk_panels);
        if (tasks >= wanted || (p->chunk_panels == 1 && (most_rows <= fewest_rows || p->rows <= fewest_rows)))
            return tasks;
        if (p->chunk_panels > 4 || most_rows <= fewest_rows || p->rows <= fewest_rows)
            p->chunk_panels = (p->chunk_panels + 1) / 2;
        else
            most_rows = most_rows / 2 < fewest_rows ? fewest_rows : most_rows / 2;
    }
}

/* What all kinds of products have in common. */
static void describe(struct product *p)
{
    const struct weight *w = p->weight;
    const struct kernels *k = p->kernels = p->cpu->kernels;
    p->positions = tensor_positions(p->y);
    p->rows = p->y.lanes * p->positions;
    p->depth = weight_depth(w);
    p->term_bytes = w->group ? k->panel / 2 : k->panel * dtype_size(w->type);
    p->panels = w->gated ? (w->out / 2 + k->width - 1) / k->width : (w->out + k->panel - 1) / k->panel;
}

static void multiply_rows(struct product *p)
{
    describe(p);
    if (winograd_serves(p)) {
        winograd_multiply(p);
        return;
    }
    int64_t blocks = (p->depth + DEPTH - 1) / DEPTH;
    p->block_depth = round_up((p->depth + blocks - 1) / blocks, 8);
    pool_run(p->cpu->pool, product_cut(p, BLOCK_ROWS, CHUNK), product_task, p);
}

/* The product for lanes [first, first + count) of y, which are all primal or all tangents. */
static void multiply_lanes(const struct device *device, struct product p, int64_t first, int64_t count)
{
    struct tensor residual;
    if (p.epilogue.residual) {
        residual = tensor_lanes(*p.epilogue.residual, first, count);
        p.epilogue.residual = &residual;
    }
    p.y = tensor_lanes(p.y, first, count);
    p.x = tensor_lanes(p.x, first, count);
    p.primal = first ? 0 : count;
    p.primals += first;
    if (first == 0 || !device->encodes) {
        multiply_rows(&p);
        return;
    }
    describe(&p);
    product8_multiply(&p, device->codes, device->code_rows, device->coded);
}

static void multiply(const struct device *device, struct product *p)
{
    int64_t lanes = p->y.lanes, primal = primal_lanes(device, p->y);
    p->primal = primal;
    if (primal == lanes || (p->epilogue.act == ACT_NONE && !device->encodes)) {
        multiply_rows(p);
        return;
    }
    p->factors = device->factors;
    p->primals = tensor_data(device->tangents.of);
    multiply_lanes(device, *p, 0, primal);
    multiply_lanes(device, *p, primal, lanes - primal);
}

void cpu_linear(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct epilogue e)
{
    struct product p = {.cpu = cpu_of(device), .y = y, .x = x, .weight = w, .epilogue = e};
    multiply(device, &p);
}

void cpu_conv(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct conv c,
              struct epilogue e)
{
    bool same_size = y.height == x.height && y.width == x.width;
    struct product p = {.cpu = cpu_of(device), .y = y, .x = x, .weight = w, .epilogue = e, .conv = c};
    p.gathered = w->kh * w->kw > 1 || c.stride > 1 || c.pad > 0 || !same_size;
    multiply(device, &p);
}
