#include "device/cpu/product.h"

#include <string.h>

/* Products of tangents with weights of 8 bits in integers. A tangent is no difference of large numbers: rounding it to
 * 8 bits adds two to three per cent of noise to a slope, which leaves an estimate of a few directions as good as it was.
 *
 * First x becomes codes, each block of a position's channels with its own scale; then rows of codes, gathered as in
 * product.c, are multiplied with the weight's codes block by block. The sums of a block are exact, and blocks are added
 * in order, so the same holds as for product.c. Outliers, a few channels (device.h), are 0 in the codes; the products of
 * their numbers are added in floats.
 *
 * With weights of 4 bits the blocks are their groups: a number is scale * code - shift, so that a group's sum is
 * scale * (sum of codes' products) - shift * (sum of x), and the second part is a product of floats, with a term for each
 * group. */

enum {
    DEPTH = 640,      /* most channels in a block */
    BLOCK_ROWS = 192, /* most rows in a task */
    CHUNK = 640,      /* most packed columns in a task */
    TOGETHER = 16,    /* positions that a task encodes */
    WIDEST = 32,      /* columns of a panel */
    WHOLE = 12,       /* a multiple of the units' and of the kernels' rows */
};

struct product8 {
    const struct product *product;
    const struct int8_unit *unit;
    struct tensor codes, code_rows;
    const struct coded *coded;
    int64_t blocks, block; /* of a position's channels; most channels in one */
};

/* A task's place and its thread's scratch. */
struct block {
    int64_t first_row, rows, padded;
    int64_t first_panel, panels;
    bool in_place;            /* are rows multiplied where they were encoded? */
    float *sums;              /* [panels][padded][panel] */
    struct row_codes *scales; /* [padded] */
    int8_t *x;                /* [padded][channels of a block] */
    float *outliers;          /* [padded][at most OUTLIERS]: what is multiplied in floats */
    uint8_t *fours;           /* a block of a panel of weights of 4 bits, as units take them */
};
_Static_assert(BLOCK_ROWS *(CHUNK * sizeof(float) + sizeof(struct row_codes) + DEPTH + OUTLIERS * sizeof(float)) +
                       DEPTH * WIDEST <=
                   SCRATCH_BYTES,
               "a task's scratch");

static struct row_codes *row_codes_at(const struct product8 *p, int64_t position)
{
    return (struct row_codes *)tensor_data(p->code_rows) + position * p->blocks;
}

static int8_t *codes_at(const struct product8 *p, int64_t position)
{
    return (int8_t *)tensor_data(p->codes) + position * p->codes.channels;
}

/* Block b of position i: channels [first, first + count) of its row, without outliers. */
static void encode_block(const struct product8 *p, int64_t i, int64_t b, const float *row, int64_t first, int64_t count)
{
    float rest[DEPTH];
    const float *from = row + first;
    for (int64_t k = 0; k < p->coded->count; k++) {
        int64_t channel = p->coded->outliers[k] - first;
        if (channel < 0 || channel >= count)
            continue;
        if (from != rest)
            from = memcpy(rest, row + first, (size_t)count * sizeof *rest);
        rest[channel] = 0;
    }
    p->product->kernels->encode(codes_at(p, i) + first, row_codes_at(p, i) + b, from, count);
}

/* Task: some positions of x, counted over all lanes. */
static void encode_task(void *arg, int64_t task, int thread)
{
    (void)thread;
    const struct product8 *p = arg;
    const struct tensor x = p->product->x;
    int64_t positions = tensor_positions(x), end = smaller((task + 1) * TOGETHER, x.lanes * positions);
    for (int64_t i = task * TOGETHER; i < end; i++)
        for (int64_t b = 0, first = 0; b < p->blocks; b++, first += p->block)
            encode_block(p, i, b, tensor_row(x, i / positions, i % positions), first,
                         smaller(p->block, x.channels - first));
}

/* Where the codes of a row of the product come from under a tap: a position over all lanes, or -1 outside. */
static int64_t source_of(const struct product *p, int64_t r, int64_t tap)
{
    if (!p->gathered)
        return r;
    int64_t from = product_under_tap(p, r % p->positions, tap);
    return from < 0 ? -1 : r / p->positions * tensor_positions(p->x) + from;
}

/* Channels [first, first + count), block `number`, under one tap of the task's rows. */
static void gather(const struct product8 *p8, const struct block *b, int64_t tap, int64_t number, int64_t first,
                   int64_t count)
{
    for (int64_t r = 0; r < b->padded; r++) {
        int64_t from = r < b->rows ? source_of(p8->product, b->first_row + r, tap) : -1;
        b->scales[r] = from < 0 ? (struct row_codes){0, 0} : row_codes_at(p8, from)[number];
        if (b->in_place)
            continue;
        if (from < 0)
            memset(b->x + r * count, 0, (size_t)count);
        else
            memcpy(b->x + r * count, codes_at(p8, from) + first, (size_t)count);
    }
}

/* Adds to the sums of panel n: b->outliers [padded][count] times terms [count][panel]. */
static void add_floats(const struct product8 *p8, const struct block *b, int64_t count, const float *terms, int64_t n)
{
    const struct kernels *k = p8->product->kernels;
    for (int64_t r = 0; r < b->padded; r += k->rows)
        k->tile(b->sums + (n * b->padded + r) * k->panel, b->outliers + r * count, count, terms, count, true);
}

/* The outliers' products under one tap. */
static void add_outliers(const struct product8 *p8, const struct block *b, int64_t tap)
{
    const struct product *p = p8->product;
    int64_t count = p8->coded->count, panel = p->kernels->panel;
    const int32_t *channels = p8->coded->outliers;
    for (int64_t r = 0; r < b->padded; r++) {
        int64_t from = r < b->rows ? source_of(p, b->first_row + r, tap) : -1, positions = tensor_positions(p->x);
        const float *row = from < 0 ? NULL : tensor_row(p->x, from / positions, from % positions);
        for (int64_t c = 0; c < count; c++)
            b->outliers[r * count + c] = row ? row[channels[c]] : 0;
    }
    float terms[OUTLIERS * WIDEST], four[4 * WIDEST];
    for (int64_t n = 0; n < b->panels; n++) {
        for (int64_t c = 0; c < count; c++) {
            int64_t term = tap * p->weight->in + channels[c];
            const float *numbers = product_terms(p, four, b->first_panel + n, term / 4 * 4, 4);
            memcpy(terms + c * panel, numbers + term % 4 * panel, (size_t)panel * sizeof *terms);
        }
        add_floats(p8, b, count, terms, n);
    }
}

/* The groups' shifts times the rows' sums, some groups at a time. */
static void take_off_shifts(const struct product8 *p8, const struct block *b)
{
    const struct product *p = p8->product;
    int64_t panel = p->kernels->panel, groups = p8->blocks;
    float shifts[OUTLIERS * WIDEST];
    for (int64_t first = 0, count; first < groups; first += count) {
        count = smaller(OUTLIERS, groups - first);
        for (int64_t r = 0; r < b->padded; r++)
            for (int64_t g = 0; g < count; g++) {
                int64_t from = r < b->rows ? source_of(p, b->first_row + r, 0) : -1;
                struct row_codes row = from < 0 ? (struct row_codes){0, 0} : row_codes_at(p8, from)[first + g];
                b->outliers[r * count + g] = row.scale * (float)(row.excess / 128);
            }
        for (int64_t n = 0; n < b->panels; n++) {
            const float *shift = p->weight->shift + ((b->first_panel + n) * groups + first) * panel;
            for (int64_t i = 0; i < count * panel; i++)
                shifts[i] = -shift[i];
            add_floats(p8, b, count, shifts, n);
        }
    }
}

/* Channels [first, first + count), block `number`, under a tap, of the task's panels. */
static void multiply_block(const struct product8 *p8, const struct block *b, int64_t tap, int64_t number, int64_t first,
                           int64_t count)
{
    const struct product *p = p8->product;
    int64_t panel = p->kernels->panel, channels = p->weight->in;
    const int8_t *x = b->in_place ? codes_at(p8, b->first_row) + first : b->x;
    float ones[WIDEST]; // the scales of weights of 8 bits come last, in product_finish_rows
    for (int64_t column = 0; column < panel; column++)
        ones[column] = 1;
    for (int64_t n = 0; n < b->panels; n++) {
        int64_t at = b->first_panel + n;
        const uint8_t *w = (const uint8_t *)product_panel(p, at, tap * channels + first);
        const float *columns = ones;
        if (p->weight->group) {
            p->kernels->unpack_fours(b->fours, w, count);
            columns = p->weight->scale + (at * p8->blocks + number) * panel;
        }
        p8->unit->multiply(b->sums + n * b->padded * panel, x, b->in_place ? channels : count, b->scales,
                           p->weight->group ? b->fours : w, columns, b->padded, count, tap > 0 || first > 0);
    }
}

static void multiply_task(void *arg, int64_t i, int thread)
{
    const struct product8 *p8 = arg;
    const struct product *p = p8->product;
    struct block b = {.first_row = i % p->row_blocks * p->block_rows,
                      .first_panel = i / p->row_blocks * p->chunk_panels};
    b.rows = smaller(p->block_rows, p->rows - b.first_row);
    b.padded = round_up(b.rows, WHOLE);
    b.in_place = !p->gathered && b.rows == b.padded;
    b.panels = smaller(p->chunk_panels, p->panels - b.first_panel);
    b.sums = cpu_scratch(p->cpu, thread);
    b.scales = (struct row_codes *)(b.sums + BLOCK_ROWS * CHUNK);
    b.x = (int8_t *)(b.scales + BLOCK_ROWS);
    b.outliers = (float *)(b.x + BLOCK_ROWS * DEPTH);
    b.fours = (uint8_t *)(b.outliers + BLOCK_ROWS * OUTLIERS);

    int64_t taps = p->weight->kh * p->weight->kw, channels = p->weight->in;
    for (int64_t tap = 0; tap < taps; tap++) {
        for (int64_t number = 0, first = 0; first < channels; number++, first += p8->block) {
            int64_t count = smaller(p8->block, channels - first);
            gather(p8, &b, tap, number, first, count);
            multiply_block(p8, &b, tap, number, first, count);
        }
        if (p8->coded->count > 0)
            add_outliers(p8, &b, tap);
    }
    if (p->weight->group)
        take_off_shifts(p8, &b);
    product_finish_rows(p, b.sums, b.padded, b.first_row, b.rows, b.first_panel, b.panels);
}

int64_t cpu_code_blocks(const struct device *device, struct tensor y, const struct weight *w, const struct conv *conv)
{
    const struct int8_unit *unit = cpu_int8();
    (void)device;
    struct product p = {
        .y = y, .weight = w, .conv = conv ? *conv : (struct conv){.stride = 1}, .positions = tensor_positions(y)};
    if (unit && w->group && w->group <= DEPTH && w->group % 4 == 0 && w->kh * w->kw == 1)
        return w->in / w->group;
    if (!unit || !in_fours(w) || (winograd_serves(&p) && !unit->taps))
        return 0;
    return (w->in + DEPTH - 1) / DEPTH;
}

void product8_multiply(struct product *p, struct tensor codes, struct tensor code_rows, const struct coded *coded)
{
    struct product8 p8 = {.product = p, .unit = p->cpu->int8, .codes = codes, .code_rows = code_rows, .coded = coded};
    p8.blocks = code_rows.channels;
    p8.block = p->weight->group
                   ? p->weight->group
                   : round_up((codes.channels + p8.blocks - 1) / p8.blocks, codes.channels % 64 == 0 ? 64 : 4);
    int64_t positions = p->x.lanes * tensor_positions(p->x);
    pool_run(p->cpu->pool, (positions + TOGETHER - 1) / TOGETHER, encode_task, &p8);
    pool_run(p->cpu->pool, product_cut(p, BLOCK_ROWS, CHUNK), multiply_task, &p8);
}
