#include "device/cpu/attention.h"

#include <math.h>
#include <string.h>

/* Attention that never stores the matrix of scores (Dao et al., "FlashAttention", 2022): the keys are processed in
 * blocks, and each query keeps its largest score so far, the sum of its weights and its weighted sum of values, which
 * are scaled down when a larger score turns up.
 *
 * A panel's columns are queries: scores [keys][queries] = k q and sums [channels][queries] = vt scores are computed by
 * the tiles of products, and softmax loops over the keys with one query in each vector element. Key blocks follow from
 * the head's size alone, so a query's numbers do not depend on how queries are divided among tasks.
 *
 * Tangents are streamed alike, several of them beside one computation of their primal. For a query and the keys so far,
 * with p a weight, s. the tangent of its score, l = sum p and o = sum p v, a tangent keeps
 *
 *     mean = sum p s. / l        u = sum p (s. - mean) v + p v.
 *
 * and in the end y. = u / l. A block of keys, l being with the block and o without it:
 *
 *     mean' = mean + sum p (s. - mean) / l
 *     u' = shrink (u - (mean' - mean) o) + sum p (s. - mean') v + p v.
 *
 * So what all s. of a query have in common, which has no effect on y., is taken off before their products with weights
 * are rounded. */

enum {
    TERMS = 160,           /* terms of a score that are summed in one go: the rounding of longer sums would matter */
    WHOLE = 12,            /* rows that are whole tiles of all kernels, and whole fours of codes */
    KEYS = 192,            /* most keys in a block */
    KEY_NUMBERS = 32768,   /* most numbers in a block of keys: with as many values it stays in the L2 cache */
    QUERY_NUMBERS = 65536, /* the same for a task's queries and sums */
    QUERY_PANELS = 8,      /* most panels in a task */
    CODED_PANELS = 16,     /* most where each task makes codes of its keys, so that fewer make the same ones */
    LEAST_PANELS = 4,      /* so many are worth another group of tangents */
};

/* How many tangents of the same primal come before this one. */
static int64_t place_of(const struct attention *a, int64_t lane)
{
    int64_t place = 0;
    for (int64_t l = a->primal; l < lane; l++)
        place += a->of[l] == a->of[lane];
    return place;
}

/* Each primal lane has a task with its first tangents, and each further group has one at its first tangent. */
static bool has_task(const struct attention *a, int64_t lane)
{
    return lane < a->primal || (place_of(a, lane) > 0 && place_of(a, lane) % a->group == 0);
}

static void choose_lanes(const struct attention *a, int64_t lane, struct query_block *b)
{
    b->leads = lane < a->primal;
    b->lanes[0] = b->leads ? lane : a->of[lane];
    b->count = 1;
    for (int64_t l = b->leads ? a->primal : lane; l < a->y.lanes && b->count <= a->group; l++)
        if (a->of[l] == b->lanes[0])
            b->lanes[b->count++] = l;
}

/* Bytes of scratch for a task with so many tangents. */
static int64_t scratch_for(const struct attention *a, int64_t tangents)
{
    int64_t lanes = 1 + tangents, columns = a->panels * a->kernels->panel, keys = a->block_keys;
    bool in_codes = tangents > 0 && a->unit;
    int64_t both = a->size + a->padded_size; // a key's numbers and values
    int64_t numbers = columns * (3 + keys + lanes * a->padded_size) + keys * both;
    struct attention_codes codes;
    numbers += a->size * (in_codes ? columns + a->kernels->panel : lanes * columns);
    if (tangents > 0)
        numbers += columns * lanes + a->kernels->panel * (keys + 1) + (in_codes ? 0 : keys * both);
    return numbers * (int64_t)sizeof(float) + (in_codes ? attention8_lay_out(a, &codes, lanes, NULL) : 0);
}

static float *take(float **scratch, int64_t numbers)
{
    float *from = *scratch;
    *scratch += numbers;
    return from;
}

/* Are the products of the task's tangents in codes? */
static bool coded(const struct attention *a, const struct query_block *b)
{
    return a->unit && b->count > 1;
}

static struct query_block lay_out(const struct attention *a, int64_t task, int thread)
{
    int64_t panel = a->kernels->panel, head = task / a->blocks, columns = a->panels * panel, keys = a->block_keys;
    struct query_block b = {.channel = head % a->heads * a->size, .first = task % a->blocks * columns};
    choose_lanes(a, head / a->heads, &b);
    b.panels = smaller(a->panels, (a->queries - b.first + panel - 1) / panel);
    float *scratch = cpu_scratch(a->cpu, thread);
    b.statistics = take(&scratch, 3 * columns);
    b.weights = take(&scratch, keys * columns);
    b.q = take(&scratch, (coded(a, &b) ? 1 : b.count) * a->size * columns);
    b.o = take(&scratch, b.count * a->padded_size * columns);
    if (b.count > 1) {
        b.means = take(&scratch, b.count * columns);
        b.scores = take(&scratch, keys * panel);
        b.moved = take(&scratch, panel);
    }
    b.k = take(&scratch, keys * a->size);
    b.v = take(&scratch, keys * a->padded_size);
    if (coded(a, &b)) {
        b.q_tangent = take(&scratch, a->size * panel);
        attention8_lay_out(a, &b.codes, b.count, (char *)scratch);
    } else if (b.count > 1) {
        b.k_tangent = take(&scratch, keys * a->size);
        b.v_tangent = take(&scratch, keys * a->padded_size);
    }
    return b;
}

/* Panel p of the task's lane i. */
static float *queries_of(const struct attention *a, const struct query_block *b, int64_t i, int64_t p)
{
    return b->q + (i * a->panels + p) * a->size * a->kernels->panel;
}

static float *sums_of(const struct attention *a, const struct query_block *b, int64_t i, int64_t p)
{
    return b->o + (i * a->panels + p) * a->padded_size * a->kernels->panel;
}

static float *means_of(const struct attention *a, const struct query_block *b, int64_t i, int64_t p)
{
    return b->means + (i * a->panels + p) * a->kernels->panel;
}

static float *weights_of(const struct attention *a, const struct query_block *b, int64_t p)
{
    return b->weights + p * a->block_keys * a->kernels->panel;
}

static struct softmax statistics_of(const struct attention *a, const struct query_block *b, int64_t p)
{
    int64_t panel = a->kernels->panel;
    float *at = b->statistics + p * 3 * panel;
    return (struct softmax){at, at + panel, at + 2 * panel};
}

/* Queries as panels, times log2(e) / sqrt(size): scores are exponents of 2. */
static void load_queries(const struct attention *a, const struct query_block *b, int64_t i)
{
    float scale = (float)(1.4426950408889634 / sqrt((double)a->size));
    for (int64_t p = 0; p < b->panels; p++) {
        int64_t first = b->first + p * a->kernels->panel;
        float *q = coded(a, b) && i > 0 ? b->q_tangent : queries_of(a, b, i, p);
        a->kernels->rows_to_panel(q, tensor_row(a->q, b->lanes[i], first) + b->channel, a->q.row_stride,
                                  smaller(a->kernels->panel, a->queries - first), a->size, scale);
        if (coded(a, b))
            attention8_queries(a, b, i, p, q);
    }
}

static void begin(const struct attention *a, const struct query_block *b)
{
    for (int64_t p = 0; p < b->panels; p++)
        for (int64_t j = 0; j < a->kernels->panel; j++) {
            struct softmax s = statistics_of(a, b, p);
            s.largest[j] = -1e30f;
            s.total[j] = 0;
        }
    for (int64_t i = 0; i < b->count; i++) {
        if (b->lanes[i] < a->q.lanes)
            load_queries(a, b, i);
        if (i > 0)
            memset(means_of(a, b, i, 0), 0, (size_t)(b->panels * a->kernels->panel) * sizeof(float));
    }
}

/* Keys [first, first + count) of lane i of the task, and their values. */
static void load_keys(const struct attention *a, const struct query_block *b, int64_t i, int64_t first, int64_t count)
{
    if (coded(a, b)) {
        attention8_keys(a, b, i, first, count);
        if (i > 0)
            return;
    }
    int64_t whole = round_up(count, WHOLE), size = a->size, padded = a->padded_size, lane = b->lanes[i];
    float *k = i > 0 ? b->k_tangent : b->k, *v = i > 0 ? b->v_tangent : b->v;
    for (int64_t j = 0; j < count; j++) {
        memcpy(k + j * size, tensor_row(a->k, lane, first + j) + b->channel, (size_t)size * sizeof(float));
        memcpy(v + j * padded, tensor_row(a->v, lane, first + j) + b->channel, (size_t)size * sizeof(float));
        memset(v + j * padded + size, 0, (size_t)(padded - size) * sizeof(float));
    }
    memset(k + count * size, 0, (size_t)((whole - count) * size) * sizeof(float));
}

/* scores [count][panel] = (add ? scores : 0) + k q. */
static void multiply_queries(const struct attention *a, float *scores, const float *k, const float *q, int64_t count,
                             bool add)
{
    int64_t panel = a->kernels->panel, rows = a->kernels->rows;
    for (int64_t c = 0; c < a->size; c += TERMS)
        for (int64_t i = 0; i < count; i += rows)
            a->kernels->tile(scores + i * panel, k + i * a->size + c, a->size, q + c * panel,
                             smaller(TERMS, a->size - c), add || c > 0);
}

/* o [padded_size][panel] = (add ? o : 0) + vt weights. */
static void add_values(const struct attention *a, float *o, const float *v, const float *weights, int64_t count,
                       bool add)
{
    for (int64_t c = 0; c < a->padded_size; c += a->kernels->rows)
        a->kernels->tile_across(o + c * a->kernels->panel, v + c, a->padded_size, weights, count, add);
}

/* Weights of keys [first, first + count) for panel p. */
static void weigh(const struct attention *a, const struct query_block *b, int64_t p, int64_t first, int64_t count)
{
    int64_t query = b->first + p * a->kernels->panel;
    float *weights = weights_of(a, b, p);
    multiply_queries(a, weights, b->k, queries_of(a, b, 0, p), count, false);
    int32_t visible[64];
    for (int64_t j = 0; a->causal && j < a->kernels->panel; j++)
        visible[j] = (int32_t)(query + j + 1 - first);
    a->kernels->softmax(statistics_of(a, b, p), weights, count,
                        a->causal && first + count - 1 > query ? visible : NULL);
    if (coded(a, b))
        attention8_weights(a, b, p, weights, count);
}

/* Adds these keys to the sums of panel p. */
static void attend(const struct attention *a, const struct query_block *b, int64_t p, int64_t first, int64_t count)
{
    float *o = sums_of(a, b, 0, p);
    if (first > 0)
        a->kernels->rescale(o, statistics_of(a, b, p).shrink, a->padded_size);
    add_values(a, o, b->v, weights_of(a, b, p), count, first > 0);
}

/* b->scores of tangent i: k q. + k. q. */
static void score_tangent(const struct attention *a, const struct query_block *b, int64_t i, int64_t p, int64_t count)
{
    bool moves = b->lanes[i] < a->q.lanes;
    if (a->unit) {
        attention8_scores(a, b, i, p, moves, count);
        return;
    }
    if (moves)
        multiply_queries(a, b->scores, b->k, queries_of(a, b, i, p), count, false);
    multiply_queries(a, b->scores, b->k_tangent, queries_of(a, b, 0, p), count, moves);
}

/* u = (add ? u : 0) + vt scores + v.t weights. */
static void add_tangent_values(const struct attention *a, const struct query_block *b, float *u, int64_t p,
                               int64_t count, bool add)
{
    if (a->unit) {
        attention8_values(a, b, u, p, count, add);
        return;
    }
    add_values(a, u, b->v, b->scores, count, add);
    add_values(a, u, b->v_tangent, weights_of(a, b, p), count, true);
}

/* As attend for tangent i, before its primal's sums have these keys. */
static void attend_tangent(const struct attention *a, const struct query_block *b, int64_t i, int64_t p, int64_t first,
                           int64_t count)
{
    float *u = sums_of(a, b, i, p);
    struct softmax s = statistics_of(a, b, p);
    score_tangent(a, b, i, p, count);
    a->kernels->softmax_tangent(s, means_of(a, b, i, p), b->moved, b->scores, weights_of(a, b, p), count);
    if (first > 0)
        a->kernels->rescale_tangent(u, sums_of(a, b, 0, p), s.shrink, b->moved, a->padded_size);
    add_tangent_values(a, b, u, p, count, first > 0);
}

/* Adds keys [first, first + count) to all sums. */
static void attend_block(const struct attention *a, const struct query_block *b, int64_t first, int64_t count)
{
    int64_t panel = a->kernels->panel, from = 0; // the first panel that sees any of them
    while (a->causal && first > b->first + (from + 1) * panel - 1)
        from++;
    load_keys(a, b, 0, first, count);
    for (int64_t p = from; p < b->panels; p++)
        weigh(a, b, p, first, count);
    for (int64_t i = 1; i < b->count; i++) {
        load_keys(a, b, i, first, count);
        for (int64_t p = from; p < b->panels; p++)
            attend_tangent(a, b, i, p, first, count);
    }
    for (int64_t p = from; p < b->panels; p++)
        attend(a, b, p, first, count);
}

static void store_queries(const struct attention *a, const struct query_block *b, int64_t i)
{
    for (int64_t p = 0; p < b->panels; p++) {
        int64_t first = b->first + p * a->kernels->panel;
        a->kernels->panel_to_rows(tensor_row(a->y, b->lanes[i], first) + b->channel, a->y.row_stride,
                                  smaller(a->kernels->panel, a->queries - first), sums_of(a, b, i, p), a->size,
                                  statistics_of(a, b, p).total);
    }
}

static void attention_task(void *arg, int64_t task, int thread)
{
    const struct attention *a = arg;
    if (!has_task(a, task / a->blocks / a->heads))
        return;
    struct query_block b = lay_out(a, task, thread);
    begin(a, &b);
    int64_t end = a->causal ? smaller(a->keys, b.first + b.panels * a->kernels->panel) : a->keys;
    for (int64_t first = 0; first < end; first += a->block_keys)
        attend_block(a, &b, first, smaller(a->block_keys, a->keys - first));
    for (int64_t i = b.leads ? 0 : 1; i < b.count; i++)
        store_queries(a, &b, i);
}

static int64_t clamp(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

/* Panels in a task and tangents in a group: as many as fit, fewer where threads would have nothing to do. */
static void divide(struct attention *a)
{
    int64_t threads = pool_threads(a->cpu->pool), lanes = a->y.lanes, panel = a->kernels->panel;
    int64_t all = (a->queries + panel - 1) / panel;
    a->panels = clamp(QUERY_NUMBERS / (2 * a->padded_size * panel), 1, QUERY_PANELS);
    if (a->unit && scratch_for(a, 1) > SCRATCH_BYTES) // follows from the head's size alone
        a->unit = NULL;
    int64_t group = smaller(lanes - a->primal, ATTENTION_GROUP);
    if (a->unit) {
        int64_t least = smaller(a->panels, LEAST_PANELS); // a tangent fits with these
        for (a->panels = CODED_PANELS; a->panels > least && scratch_for(a, group) > SCRATCH_BYTES;)
            a->panels--;
    }
    for (;; a->panels = (a->panels + 1) / 2) {
        a->blocks = (all + a->panels - 1) / a->panels;
        if (a->panels == 1 || a->primal * a->heads * a->blocks >= 4 * threads)
            break;
    }
    a->panels = (all + a->blocks - 1) / a->blocks; // alike in all tasks
    while (group > 1 && scratch_for(a, group) > SCRATCH_BYTES)
        group--;
    for (a->group = group; a->group > 1; a->group = (a->group + 1) / 2) {
        int64_t tasks = 0;
        for (int64_t lane = 0; lane < lanes; lane++)
            tasks += has_task(a, lane);
        if (tasks * a->heads * a->blocks >= threads)
            break;
    }
}

void cpu_attention(struct device *device, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
                   int64_t heads, bool causal)
{
    struct attention a = {.cpu = cpu_of(device), .y = y, .q = q, .k = k, .v = v, .causal = causal, .heads = heads};
    const struct kernels *kernels = a.kernels = a.cpu->kernels;
    a.primal = primal_lanes(device, y);
    a.of = a.primal < y.lanes ? tensor_data(device->tangents.of) : NULL;
    a.size = q.channels / heads;
    bool codes = device->tangent_bits == 8 && !(device->no_codes & CODES_ATTENTION);
    a.unit = codes && a.primal < y.lanes ? a.cpu->int8 : NULL;
    a.padded_size = round_up(a.size, a.unit ? WHOLE : kernels->rows);
    a.queries = tensor_positions(q);
    a.keys = tensor_positions(k);
    a.block_keys = clamp(KEY_NUMBERS / a.size / WHOLE * WHOLE, WHOLE, KEYS);
    if (a.unit) {
        a.terms = round_up(a.size, a.unit->terms);
        a.key_terms = round_up(a.block_keys, a.unit->terms);
    }
    divide(&a);
    pool_run(a.cpu->pool, y.lanes * heads * a.blocks, attention_task, &a);
}
