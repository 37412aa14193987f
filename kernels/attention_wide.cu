/* kernels/attention_wide.cu
 *
 * Attention for heads of any size; the idea that it shares with attention.cu is in attention.h.
 *
 * Idea. A block owns 16 queries: its warps share out a tile's keys for the scores, which they exchange through shared
 * memory, and then the head's channels for the sums. All factors come from global memory. A head with more channels
 * than a block's registers hold is cut into chunks, each a block's, which all compute the same scores.
 */
#include "kernels/attention.h"

namespace
{

enum {
    WARPS = 8,
    THREADS = 32 * WARPS,
    KEYS = 8 * WARPS, /* of a tile: 8 for each warp to score */
    TILES = 8,        /* the most tiles of 8 channels that a warp sums */
    CHANNELS = 8 * TILES * WARPS,
    STEPS = 8, /* steps of 16 channels whose products are summed in one go */
};

struct wide_shared {
    float scores[QUERIES][KEYS];
    uint16_t hi[QUERIES][KEYS + 8], lo[QUERIES][KEYS + 8]; /* weights */
    float shrink[QUERIES], total[QUERIES];
};

/* Scores of all queries with the warp's 8 keys, into shared memory. */
template <enum operand O>
__device__ void score(struct wide_shared *s, const struct attention_args &a, int first, int query, int lane, int head)
{
    int own = (int)threadIdx.x / 32 * 8, g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    const float *low = head_row(a.q, lane, query, head * a.size), *high = head_row(a.q, lane, query + 8, head * a.size);
    const float *key = head_row(a.k, lane, first + own + g, head * a.size);
    float sums[1][4] = {};
    for (int c = 0; c < a.size; c += 16 * STEPS) {
        float acc[1][4] = {};
        for (int k = c; k < c + 16 * STEPS && k < a.size; k += 16) {
            uint32_t q_hi[4], q_lo[4], k_hi[1][2], k_lo[1][2];
            load_left<O>(q_hi, q_lo, low, high, k, a.size);
            for (int i = 0; i < 2; i++) {
                int at = k + 8 * i + 2 * t;
                split_two<O>(channel_or_zero(key, at, a.size), channel_or_zero(key, at + 1, a.size), &k_hi[0][i],
                             &k_lo[0][i]);
            }
            mma_pairs<O, 1>(acc, q_hi, q_lo, k_hi, k_lo);
        }
        for (int i = 0; i < 4; i++)
            sums[0][i] += acc[0][i];
    }
    hide_keys(sums, a, first + own, query);
    for (int i = 0; i < 4; i++)
        s->scores[g + i / 2 * 8][own + 2 * t + i % 2] = sums[0][i];
}

/* Weights of the warp's two queries, one after the other; a thread has two keys. */
template <enum operand O> __device__ void weigh(struct wide_shared *s, struct softmax *p, float scale)
{
    int thread = (int)threadIdx.x % 32;
    for (int r = 0; r < 2; r++) {
        int query = (int)threadIdx.x / 32 * 2 + r;
        float2 scores = *(const float2 *)&s->scores[query][2 * thread];
        float largest = fmaxf(p->largest[r], max_over_warp(fmaxf(scores.x, scores.y)));
        float shrink = exp2f((p->largest[r] - largest) * scale), from = fmaf(-largest, scale, WEIGHT_EXPONENT);
        float x = exp2f(fmaf(scores.x, scale, from)), y = exp2f(fmaf(scores.y, scale, from));
        split_two<O>(x, y, (uint32_t *)&s->hi[query][2 * thread], (uint32_t *)&s->lo[query][2 * thread]);
        p->largest[r] = largest;
        p->total[r] = fmaf(p->total[r], shrink, x + y);
        if (thread == 0)
            s->shrink[query] = shrink;
    }
}

/* Adds the tile's values to the warp's tiles of channels from `channel` on. */
template <enum operand O>
__device__ void add_values(float (&sums)[TILES][4], const struct wide_shared *s, const struct attention_args &a,
                           int first, int lane, int head, int channel, int tiles)
{
    int thread = (int)threadIdx.x % 32, g = thread / 4, t = thread % 4;
    uint32_t w_hi[KEYS / 16][4], w_lo[KEYS / 16][4];
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        load_matrices(w_hi[k], &s->hi[thread % 16][k * 16 + thread / 16 * 8]);
        load_matrices(w_lo[k], &s->lo[thread % 16][k * 16 + thread / 16 * 8]);
    }
    float shrink[2] = {s->shrink[g], s->shrink[g + 8]};
#pragma unroll
    for (int n = 0; n < TILES; n++) {
        if (n >= tiles)
            break;
        float acc[1][4] = {};
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            uint32_t hi[1][2], lo[1][2];
            for (int i = 0; i < 2; i++) {
                int key = first + k * 16 + 8 * i + 2 * t, at = channel + n * 8 + g;
                float x = channel_or_zero(head_row(a.v, lane, key, head * a.size), at, a.size);
                float y = channel_or_zero(head_row(a.v, lane, key + 1, head * a.size), at, a.size);
                split_two<O>(x, y, &hi[0][i], &lo[0][i]);
            }
            mma_pairs<O, 1>(acc, w_hi[k], w_lo[k], hi, lo);
        }
        for (int i = 0; i < 4; i++)
            sums[n][i] = fmaf(sums[n][i], shrink[i / 2], acc[0][i]);
    }
}

/* Block: 16 queries and up to CHANNELS channels of one head of one lane. */
template <enum operand O> __global__ void __launch_bounds__(THREADS) attend_wide(const struct attention_args a)
{
    struct wide_shared *s = (struct wide_shared *)shared_memory;
    int head = (int)blockIdx.y / a.chunks, chunk = (int)blockIdx.y % a.chunks, lane = (int)blockIdx.z;
    int block = (int)blockIdx.x * QUERIES, thread = (int)threadIdx.x % 32, g = thread / 4, query = block + g;
    int width = min(CHANNELS, a.size - chunk * CHANNELS);
    int tiles = (width + 8 * WARPS - 1) / (8 * WARPS);
    int channel = chunk * CHANNELS + (int)threadIdx.x / 32 * 8 * tiles;

    float sums[TILES][4] = {};
    struct softmax p = {{-INFINITY, -INFINITY}, {0, 0}};
    int end = keys_seen(a, block, QUERIES);
    for (int first = 0; first < end; first += KEYS) {
        score<O>(s, a, first, query, lane, head);
        __syncthreads();
        weigh<O>(s, &p, a.scale);
        __syncthreads();
        add_values<O>(sums, s, a, first, lane, head, channel, tiles);
    }
    for (int r = 0; r < 2; r++) {
        float total = sum_over_warp(p.total[r]);
        if (thread == 0)
            s->total[(int)threadIdx.x / 32 * 2 + r] = total;
    }
    __syncthreads();
    float share[2] = {1 / s->total[g], 1 / s->total[g + 8]};
    store_sums(a, sums, share, query, lane, head, channel, min(a.size, channel + 8 * tiles));
}

/* -------------------------------------------------------------------------------- launcher */

template <enum operand O> void start(struct device *device, int heads, struct attention_args a)
{
    a.chunks = (int)blocks_for(a.size, CHANNELS);
    dim3 grid((unsigned)blocks_for(a.q.positions, QUERIES), (unsigned)(heads * a.chunks), (unsigned)a.q.lanes);
    launch(device, "attend_wide", attend_wide<O>, grid, THREADS, sizeof(struct wide_shared), a);
}

} // namespace

void attention_wide(struct device *device, int heads, struct attention_args a)
{
    if (cuda_of(device)->operand == HALF)
        start<HALF>(device, heads, a);
    else
        start<BFLOAT>(device, heads, a);
}
