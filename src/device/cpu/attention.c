#include <math.h>
#include <string.h>

#include "device/cpu/cpu.h"

/* Attention that never stores the matrix of scores (Dao et al., "FlashAttention", 2022): the keys are processed in
 * blocks, and each query keeps its largest score so far, the sum of its weights and its weighted sum of values, which
 * are scaled down when a larger score turns up.
 *
 * A panel's columns are queries: scores [keys][queries] = k q and sums [channels][queries] = vt scores are computed by
 * the tiles of products, and softmax loops over the keys with one query in each vector element. Key blocks follow from
 * the head's size alone, so a query's numbers do not depend on how queries are divided among tasks. */

enum {
    TERMS = 160,           /* terms of a score that are summed in one go: the rounding of longer sums would matter */
    KEYS = 96,             /* most keys in a block */
    KEY_NUMBERS = 32768,   /* most numbers in a block of keys: with as many values it stays in the L2 cache */
    QUERY_NUMBERS = 65536, /* the same for a task's queries and sums */
    QUERY_PANELS = 8,      /* most panels in a task */
};

struct attention {
    const struct cpu *cpu;
    const struct kernels *kernels;
    struct tensor y, q, k, v;
    bool causal;
    int64_t heads, size, padded_size; /* of a head; padded to whole tiles */
    int64_t queries, keys, block_keys;
    int64_t panels, blocks; /* panels in a task, tasks for a head */
};

/* One task and its thread's scratch. */
struct query_block {
    int64_t lane, channel; /* the head's first */
    int64_t first, panels;
    float *q, *o;      /* [panels][size][panel], [panels][padded_size][panel] */
    float *scores;     /* [block_keys][panel] */
    float *k, *v;      /* [block_keys][size], [block_keys][padded_size] */
    float *statistics; /* [panels][3][panel] */
};

static struct query_block lay_out(const struct attention *a, int64_t task, int thread)
{
    int64_t panel = a->kernels->panel, head = task / a->blocks;
    struct query_block b = {.lane = head / a->heads, .channel = head % a->heads * a->size};
    b.first = task % a->blocks * a->panels * panel;
    b.panels = smaller(a->panels, (a->queries - b.first + panel - 1) / panel);
    b.scores = cpu_scratch(a->cpu, thread);
    b.statistics = b.scores + a->block_keys * panel;
    b.q = b.statistics + a->panels * 3 * panel;
    b.o = b.q + a->panels * a->size * panel;
    b.k = b.o + a->panels * a->padded_size * panel;
    b.v = b.k + a->block_keys * a->size;
    return b;
}

/* Queries as panels, times log2(e) / sqrt(size): scores are exponents of 2. */
static void load_queries(const struct attention *a, const struct query_block *b)
{
    int64_t panel = a->kernels->panel;
    float scale = (float)(1.4426950408889634 / sqrt((double)a->size));
    for (int64_t p = 0; p < b->panels; p++)
        for (int64_t j = 0; j < panel; j++) {
            int64_t query = b->first + p * panel + j;
            float *to = b->q + p * a->size * panel + j;
            const float *from = tensor_row(a->q, b->lane, smaller(query, a->queries - 1)) + b->channel;
            for (int64_t c = 0; c < a->size; c++)
                to[c * panel] = from[c] * scale;
        }
    for (int64_t i = 0; i < b->panels * panel; i++) {
        float *largest = b->statistics + i / panel * 3 * panel + i % panel;
        largest[0] = -1e30f;
        largest[panel] = 0;
    }
}

static void load_keys(const struct attention *a, const struct query_block *b, int64_t first, int64_t count)
{
    int64_t whole = round_up(count, a->kernels->rows), size = a->size, padded = a->padded_size;
    for (int64_t i = 0; i < count; i++) {
        memcpy(b->k + i * size, tensor_row(a->k, b->lane, first + i) + b->channel, (size_t)size * sizeof(float));
        memcpy(b->v + i * padded, tensor_row(a->v, b->lane, first + i) + b->channel, (size_t)size * sizeof(float));
        memset(b->v + i * padded + size, 0, (size_t)(padded - size) * sizeof(float));
    }
    memset(b->k + count * size, 0, (size_t)((whole - count) * size) * sizeof(float));
}

/* Adds keys [first, first + count) to the sums of panel p. */
static void attend(const struct attention *a, const struct query_block *b, int64_t p, int64_t first, int64_t count)
{
    const struct kernels *k = a->kernels;
    int64_t panel = k->panel, query = b->first + p * panel;
    if (a->causal && first > query + panel - 1)
        return;
    float *o = b->o + p * a->padded_size * panel, *statistics = b->statistics + p * 3 * panel;
    const float *q = b->q + p * a->size * panel;
    for (int64_t c = 0; c < a->size; c += TERMS)
        for (int64_t i = 0; i < count; i += k->rows)
            k->tile(b->scores + i * panel, b->k + i * a->size + c, a->size, q + c * panel, smaller(TERMS, a->size - c),
                    c > 0);

    int32_t visible[64];
    for (int64_t j = 0; a->causal && j < panel; j++)
        visible[j] = (int32_t)(query + j + 1 - first);
    struct softmax s = {statistics, statistics + panel, statistics + 2 * panel};
    k->softmax(s, b->scores, count, a->causal && first + count - 1 > query ? visible : NULL);

    if (first > 0)
        k->rescale(o, s.shrink, a->padded_size);
    for (int64_t c = 0; c < a->padded_size; c += k->rows)
        k->tile_across(o + c * panel, b->v + c, a->padded_size, b->scores, count, first > 0);
}

static void store_queries(const struct attention *a, const struct query_block *b)
{
    int64_t panel = a->kernels->panel, end = smaller(b->panels * panel, a->queries - b->first);
    for (int64_t j = 0; j < end; j++) {
        float *to = tensor_row(a->y, b->lane, b->first + j) + b->channel;
        const float *from = b->o + j / panel * a->padded_size * panel + j % panel;
        float total = b->statistics[(j / panel * 3 + 1) * panel + j % panel], share = 1 / total;
        for (int64_t c = 0; c < a->size; c++)
            to[c] = from[c * panel] * share;
    }
}

static void attention_task(void *arg, int64_t i, int thread)
{
    const struct attention *a = arg;
    struct query_block b = lay_out(a, i, thread);
    load_queries(a, &b);
    int64_t end = a->causal ? smaller(a->keys, b.first + b.panels * a->kernels->panel) : a->keys;
    for (int64_t first = 0; first < end; first += a->block_keys) {
        int64_t count = smaller(a->block_keys, a->keys - first);
        load_keys(a, &b, first, count);
        for (int64_t p = 0; p < b.panels; p++)
            attend(a, &b, p, first, count);
    }
    store_queries(a, &b);
}

static int64_t clamp(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

void cpu_attention(struct device *device, struct tensor y, struct tensor q, struct tensor k, struct tensor v,
                   int64_t heads, bool causal)
{
    struct attention a = {.cpu = cpu_of(device), .y = y, .q = q, .k = k, .v = v, .causal = causal, .heads = heads};
    const struct kernels *kernels = a.kernels = a.cpu->kernels;
    a.size = q.channels / heads;
    a.padded_size = round_up(a.size, kernels->rows);
    a.queries = tensor_positions(q);
    a.keys = tensor_positions(k);
    a.block_keys = clamp(KEY_NUMBERS / a.size / kernels->rows * kernels->rows, kernels->rows, KEYS);
    a.panels = clamp(QUERY_NUMBERS / (2 * a.padded_size * kernels->panel), 1, QUERY_PANELS);
    int64_t all = (a.queries + kernels->panel - 1) / kernels->panel, wanted = 4 * pool_threads(a.cpu->pool);
    for (;; a.panels = (a.panels + 1) / 2) {
        a.blocks = (all + a.panels - 1) / a.panels;
        if (a.panels == 1 || q.lanes * heads * a.blocks >= wanted)
            break;
    }
    pool_run(a.cpu->pool, q.lanes * heads * a.blocks, attention_task, &a);
}
