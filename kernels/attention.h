/* kernels/attention.h
 *
 * Attention, y = softmax(q kt / sqrt(size)) v for each head of each lane, as its two kernels share it: attention.cu for
 * heads whose tiles fit in shared memory, attention_wide.cu for all others.
 *
 * Idea (Dao, "FlashAttention-2", 2023). The matrix of scores is never stored. A group of 16 queries goes through the
 * keys and values tile by tile; each query keeps its largest score so far, the sum of its weights and its weighted sum
 * of values, which are scaled down when a larger score turns up.
 *
 * Precision. Every factor is a pair (ptx.h): hi hi + hi lo + lo hi. Weights are scaled by 2^10, so that small ones and
 * low halves stay clear of half's subnormals; the sum of weights is scaled alike and cancels it. A tile's weighted sum
 * is added to the query's in float arithmetic: the matrix units round towards zero, and in long chains that would add
 * up.
 *
 * Lanes (device/device.h): what is written for a lane depends neither on how many lanes there are nor on its place
 * among them. Tiles follow from the size of a head; lanes are grid.z. Keys that a query may not see have weight 0
 * exactly.
 */
#ifndef ZOODIP_KERNELS_ATTENTION_H
#define ZOODIP_KERNELS_ATTENTION_H

#include "kernels/cuda.h"

struct attention_args {
    struct view<float> y;
    struct view<const float> q, k, v;
    int size;     /* of a head */
    int keys_end; /* keys */
    bool causal;
    bool fours;  /* k and v may be read 16 bytes at a time */
    float scale; /* log2(e) / sqrt(size): scores become exponents of 2 */
    int chunks;  /* wide: pieces of a head's channels, each a block's */
};

/* attention_wide.cu: heads of any size. */
void attention_wide(struct device *device, int heads, struct attention_args a);

/* attention_tangent.cu: in a program with tangents, whose lanes are y's. */
void attention_tangent(struct device *device, struct tensor y, struct tensor k, int64_t heads, struct attention_args a);

enum { QUERIES = 16 }; /* that go through the keys together: the rows of a matrix product */

constexpr float WEIGHT_EXPONENT = 10;

/* Channel `channel` of a head's row; 0 beyond its end, and 0 if there is no row. */
__device__ static inline float channel_or_zero(const float *row, int channel, int size)
{
    return row && channel < size ? row[channel] : 0;
}

__device__ static inline const float *head_row(const struct view<const float> &v, int lane, int position,
                                               int first_channel)
{
    return position < v.positions ? row_of(v, lane, position) + first_channel : NULL;
}

/* The left factor's fragment of rows `low` (g) and `high` (g + 8), channels [channel, channel + 16), as pairs. */
template <enum operand O>
__device__ static inline void load_left(uint32_t (&hi)[4], uint32_t (&lo)[4], const float *low, const float *high,
                                        int channel, int size)
{
    int c = channel + (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float *row = i % 2 ? high : low;
        int at = c + i / 2 * 8;
        split_two<O>(channel_or_zero(row, at, size), channel_or_zero(row, at + 1, size), &hi[i], &lo[i]);
    }
}

template <int N> __device__ static inline void in_twos(uint32_t (&two)[N][2], const uint32_t (&four)[4])
{
    for (int i = 0; i < 2 * N; i++)
        two[i / 2][i % 2] = four[i];
}

/* acc += a b, both pairs. */
template <enum operand O, int N>
__device__ static inline void mma_pairs(float (&acc)[N][4], const uint32_t (&a_hi)[4], const uint32_t (&a_lo)[4],
                                        const uint32_t (&b_hi)[N][2], const uint32_t (&b_lo)[N][2])
{
    mma_tile<O, N>(acc, a_hi, b_hi);
    mma_tile<O, N>(acc, a_hi, b_lo);
    mma_tile<O, N>(acc, a_lo, b_hi);
}

/* The state of the two queries (rows g and g + 8) that a thread shares in. Until the end, `total` covers only this
 * thread's keys. */
struct softmax {
    float largest[2], total[2];
};

__device__ static inline float max_over_quad(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ static inline float sum_over_quad(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ static inline float max_over_warp(float x)
{
    for (int lanes = 16; lanes > 0; lanes /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lanes));
    return x;
}

/* Gives keys of the tile at `first` that rows `query` and `query + 8` may not see a score below all others. */
template <int TILES>
__device__ static inline void hide_keys(float (&scores)[TILES][4], const struct attention_args &a, int first, int query)
{
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int key = first + n * 8 + (int)threadIdx.x % 4 * 2 + i % 2, end = a.keys_end;
            if (a.causal)
                end = min(end, query + i / 2 * 8 + 1);
            if (key >= end)
                scores[n][i] = -INFINITY;
        }
}

/* Turns scores into weights, in place; shrink: the factor for earlier sums. */
template <int TILES>
__device__ static inline void weigh(struct softmax *p, float (&scores)[TILES][4], float (&shrink)[2], float scale)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float largest = p->largest[r];
#pragma unroll
        for (int n = 0; n < TILES; n++)
            largest = fmaxf(largest, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
        largest = max_over_quad(largest);
        shrink[r] = exp2f((p->largest[r] - largest) * scale);
        float from = fmaf(-largest, scale, WEIGHT_EXPONENT), total = 0;
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
            for (int i = 2 * r; i < 2 * r + 2; i++)
                total += scores[n][i] = exp2f(fmaf(scores[n][i], scale, from));
        p->largest[r] = largest;
        p->total[r] = fmaf(p->total[r], shrink[r], total);
    }
}

/* Keys that some query of [first, first + count) sees. */
__device__ static inline int keys_seen(const struct attention_args &a, int first, int count)
{
    return a.causal ? min(a.keys_end, first + count) : a.keys_end;
}

/* Rows g and g + 8 of y, channels [first, end) of a head, which lie in TILES tiles of 8. */
template <int TILES>
__device__ static inline void store_sums(const struct attention_args &a, const float (&sums)[TILES][4],
                                         const float (&share)[2], int query, int lane, int head, int first, int end)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (query + 8 * r >= a.y.positions)
            continue;
        float *to = row_of(a.y, lane, query + 8 * r) + head * a.size;
#pragma unroll
        for (int n = 0; n < TILES; n++)
            for (int i = 0; i < 2; i++) {
                int channel = first + n * 8 + (int)threadIdx.x % 4 * 2 + i;
                if (channel < end)
                    to[channel] = sums[n][2 * r + i] * share[r];
            }
    }
}

#endif
