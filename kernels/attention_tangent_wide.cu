/* kernels/attention_tangent_wide.cu
 *
 * Attention in a program with tangents, for heads of any size; the idea that it shares with attention_tangent.cu is in
 * attention_tangent.h.
 *
 * Idea. As attention_wide.cu: a block owns 16 queries, its warps share out a tile's keys for the scores, which they
 * exchange through shared memory, and then the head's channels, or a chunk of them, for the sums. A block has one lane:
 * a primal, or a tangent, beside which its primal is computed again.
 */
#include "kernels/attention_tangent.h"

namespace
{

enum {
    WARPS = 8,
    THREADS = 32 * WARPS,
    KEYS = 8 * WARPS, /* of a tile: 8 for each warp to score */
    TILES = 4,        /* the most tiles of 8 channels that a warp sums */
    CHANNELS = 8 * TILES * WARPS,
    STEPS = 8, /* steps of 16 channels whose products are summed in one go */
};

/* Of the primal (0) and the tangent (1). */
template <int PARTS> struct wide_shared {
    float scores[2][QUERIES][KEYS];
    uint16_t weights[2][PARTS][QUERIES][KEYS + 8];
    float shrink[QUERIES], moved[QUERIES], total[QUERIES];
};

/* A block's lanes, as wide_shared: the second is a tangent, if there are two. */
struct two_lanes {
    int lane[2];
    float unit[2];
};

/* sums += the products of 16 queries, times `factor`, and the warp's 8 keys. */
template <enum operand O, int PARTS>
__device__ void add_scores(float (&sums)[1][4], const struct tangent_args &t, int query_lane, int key_lane,
                           float factor, int query, int key, int head)
{
    const float *low = head_row(t.a.q, query_lane, query, head * t.a.size);
    const float *high = head_row(t.a.q, query_lane, query + 8, head * t.a.size);
    for (int c = 0; c < t.depth; c += 16 * STEPS) {
        float acc[1][4] = {};
        for (int k = c; k < c + 16 * STEPS && k < t.depth; k += 16) {
            uint32_t left[PARTS][4], right[PARTS][1][2];
            load_queries<O>(left, low, high, k, t.a.size, factor);
            for (int part = 0; part < PARTS; part++)
                for (int i = 0; i < 2; i++) {
                    const uint16_t *row = numbers_of(t, 0, part, key_lane, head) + (int64_t)key * t.depth;
                    int at = k + 8 * i + (int)threadIdx.x % 4 * 2;
                    right[part][0][i] = key < t.a.keys_end ? *(const uint32_t *)(row + at) : 0;
                }
            multiply<O>(acc, left, right);
        }
        for (int i = 0; i < 4; i++)
            sums[0][i] += acc[0][i];
    }
}

/* Scores of all queries with the warp's 8 keys, into shared memory. */
template <enum operand O, int PARTS, int COUNT>
__device__ void score(struct wide_shared<PARTS> *s, const struct tangent_args &t, const struct two_lanes &of, int first,
                      int query, int head)
{
    int own = (int)threadIdx.x / 32 * 8, g = (int)threadIdx.x % 32 / 4, column = own + (int)threadIdx.x % 4 * 2;
    for (int lane = 0; lane <= COUNT; lane++) {
        float sums[1][4] = {};
        if (lane == 0 || t.moves)
            add_scores<O, PARTS>(sums, t, of.lane[lane], of.lane[0], of.unit[lane], query, first + own + g, head);
        if (lane > 0)
            add_scores<O, PARTS>(sums, t, of.lane[0], of.lane[lane], 1, query, first + own + g, head);
        else
            hide_keys(sums, t.a, first + own, query);
        for (int i = 0; i < 4; i++)
            s->scores[lane][g + i / 2 * 8][column + i % 2] = sums[0][i];
    }
}

template <enum operand O, int PARTS>
__device__ void store_weights(struct wide_shared<PARTS> *s, int lane, int query, int key, float x, float y)
{
    round_two<O>(x, y, (uint32_t *)&s->weights[lane][0][query][key],
                 PARTS == 2 ? (uint32_t *)&s->weights[lane][PARTS - 1][query][key] : NULL);
}

/* Weights of the warp's two queries, one after the other; a thread has two keys. */
template <enum operand O, int PARTS, int COUNT>
__device__ void weigh(struct wide_shared<PARTS> *s, struct softmax *p, float (&mean)[2], const struct attention_args &a)
{
    int thread = (int)threadIdx.x % 32, key = 2 * thread;
    for (int r = 0; r < 2; r++) {
        int query = (int)threadIdx.x / 32 * 2 + r;
        float2 scores = *(const float2 *)&s->scores[0][query][key];
        float largest = fmaxf(p->largest[r], max_over_warp(fmaxf(scores.x, scores.y)));
        float shrink = exp2f((p->largest[r] - largest) * a.scale), from = fmaf(-largest, a.scale, WEIGHT_EXPONENT);
        float x = exp2f(fmaf(scores.x, a.scale, from)), y = exp2f(fmaf(scores.y, a.scale, from));
        store_weights<O>(s, 0, query, key, x, y);
        p->largest[r] = largest;
        p->total[r] = fmaf(p->total[r], shrink, sum_over_warp(x + y));
        if (thread == 0)
            s->shrink[query] = shrink;
        if (COUNT > 0) {
            float scale = CALM * rsqrtf((float)a.size);
            float2 tangent = *(const float2 *)&s->scores[COUNT][query][key];
            float off = fmaf(x, fmaf(tangent.x, scale, -mean[r]), y * fmaf(tangent.y, scale, -mean[r]));
            float moved = sum_over_warp(off) / p->total[r];
            mean[r] = __fadd_rn(mean[r], moved);
            store_weights<O>(s, COUNT, query, key, x * fmaf(tangent.x, scale, -mean[r]),
                             y * fmaf(tangent.y, scale, -mean[r]));
            if (thread == 0)
                s->moved[query] = moved;
        }
    }
}

/* A pair of keys' values in one channel. */
__device__ uint32_t two_values(const uint16_t *values, const struct tangent_args &t, int key, int channel)
{
    const uint16_t *at = values + (int64_t)key * t.depth + channel;
    uint32_t low = key < t.a.keys_end && channel < t.depth ? at[0] : 0;
    uint32_t high = key + 1 < t.a.keys_end && channel < t.depth ? at[t.depth] : 0;
    return low | high << 16;
}

/* acc += the weights of `weights` times the tile's values of a lane, in 8 channels. */
template <enum operand O, int PARTS>
__device__ void add_products(float (&acc)[1][4], const struct wide_shared<PARTS> *s, const struct tangent_args &t,
                             int weights, int lane, int first, int channel, int head)
{
    int thread = (int)threadIdx.x % 32;
    for (int k = 0; k < KEYS / 16; k++) {
        uint32_t left[PARTS][4], right[PARTS][1][2];
        for (int part = 0; part < PARTS; part++) {
            load_matrices(left[part], &s->weights[weights][part][thread % 16][k * 16 + thread / 16 * 8]);
            for (int i = 0; i < 2; i++)
                right[part][0][i] = two_values(numbers_of(t, 1, part, lane, head), t,
                                               first + k * 16 + 8 * i + thread % 4 * 2, channel + thread / 4);
        }
        multiply<O>(acc, left, right);
    }
}

/* Adds the tile's values to the warp's tiles of channels from `channel` on. */
template <enum operand O, int PARTS, int COUNT>
__device__ void add_values(float (&sums)[1 + COUNT][TILES][4], const struct wide_shared<PARTS> *s,
                           const struct tangent_args &t, const struct two_lanes &of, int first, int channel, int tiles,
                           int head)
{
    int g = (int)threadIdx.x % 32 / 4;
    float shrink[2] = {s->shrink[g], s->shrink[g + 8]};
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        if (n >= tiles)
            break;
        if (COUNT > 0) {
            float acc[1][4] = {}, moved[2] = {s->moved[g], s->moved[g + 8]};
            add_products<O, PARTS>(acc, s, t, COUNT, of.lane[0], first, channel + n * 8, head);
            add_products<O, PARTS>(acc, s, t, 0, of.lane[COUNT], first, channel + n * 8, head);
            for (int i = 0; i < 4; i++)
                sums[COUNT][n][i] =
                    fmaf(fmaf(-moved[i / 2], sums[0][n][i], sums[COUNT][n][i]), shrink[i / 2], acc[0][i]);
        }
        float acc[1][4] = {};
        add_products<O, PARTS>(acc, s, t, 0, of.lane[0], first, channel + n * 8, head);
        for (int i = 0; i < 4; i++)
            sums[0][n][i] = fmaf(sums[0][n][i], shrink[i / 2], acc[0][i]);
    }
}

template <enum operand O, int PARTS, int COUNT>
__device__ void attend(const struct tangent_args &t, const struct two_lanes &of)
{
    struct wide_shared<PARTS> *s = (struct wide_shared<PARTS> *)shared_memory;
    int head = (int)blockIdx.y / t.a.chunks, chunk = (int)blockIdx.y % t.a.chunks;
    int block = (int)blockIdx.x * QUERIES, thread = (int)threadIdx.x % 32, g = thread / 4, query = block + g;
    int width = min(CHANNELS, t.a.size - chunk * CHANNELS), tiles = (width + 8 * WARPS - 1) / (8 * WARPS);
    int channel = chunk * CHANNELS + (int)threadIdx.x / 32 * 8 * tiles;

    float sums[1 + COUNT][TILES][4] = {}, mean[2] = {};
    struct softmax p = {{-INFINITY, -INFINITY}, {0, 0}};
    int end = keys_seen(t.a, block, QUERIES);
    for (int first = 0; first < end; first += KEYS) {
        score<O, PARTS, COUNT>(s, t, of, first, query, head);
        __syncthreads();
        weigh<O, PARTS, COUNT>(s, &p, mean, t.a);
        __syncthreads();
        add_values<O, PARTS, COUNT>(sums, s, t, of, first, channel, tiles, head);
    }
    for (int r = 0; r < 2; r++)
        if (thread == 0)
            s->total[(int)threadIdx.x / 32 * 2 + r] = p.total[r];
    __syncthreads();
    float back = COUNT > 0 ? 1 / (CALM * of.unit[COUNT]) : 1, share[2] = {back / s->total[g], back / s->total[g + 8]};
    store_sums(t.a, sums[COUNT], share, query, of.lane[COUNT], head, channel, min(t.a.size, channel + 8 * tiles));
}

/* Block: 16 queries and up to CHANNELS channels of one head of one lane. */
template <enum operand O, int PARTS>
__global__ void __launch_bounds__(THREADS) attend_tangents_wide(const struct tangent_args t)
{
    int lane = (int)blockIdx.z, primal = t.of[lane];
    if (lane < t.primal) {
        attend<O, PARTS, 0>(t, {{lane, lane}, {1, 1}});
    } else {
        attend<O, PARTS, 1>(t, {{primal, lane}, {1, unit_of(t, lane)}});
    }
}

/* -------------------------------------------------------------------------------- launcher */

template <enum operand O, int PARTS> void start(struct device *device, struct tangent_args t)
{
    t.a.chunks = (int)blocks_for(t.a.size, CHANNELS);
    dim3 grid((unsigned)blocks_for(t.a.q.positions, QUERIES), (unsigned)(t.heads * t.a.chunks), (unsigned)t.lanes);
    launch(device, "attend_tangents_wide", attend_tangents_wide<O, PARTS>, grid, THREADS,
           sizeof(struct wide_shared<PARTS>), t);
}

} // namespace

void attention_tangent_wide(struct device *device, const struct tangent_args &t)
{
    if (cuda_of(device)->operand == HALF)
        t.parts == 1 ? start<HALF, 1>(device, t) : start<HALF, 2>(device, t);
    else
        t.parts == 1 ? start<BFLOAT, 1>(device, t) : start<BFLOAT, 2>(device, t);
}
