/* kernels/attention_tangent.h
 *
 * Attention in a program with tangents, as its files share it: attention_tangent_round.cu goes ahead, then comes
 * attention_tangent.cu for heads whose tiles fit in shared memory, attention_tangent_wide.cu for all others. Evaluations
 * elsewhere are attention.h's.
 *
 * Idea. As in attention.h, and as on the CPU (src/device/cpu/attention.c): of a query and the keys so far, with p a
 * weight, s. the tangent of its score, l = sum p and o = sum p v, a tangent keeps
 *
 *     mean = sum p s. / l        u = sum p (s. - mean) v + p v.        and in the end y. = u / l
 *
 * A tile of keys, l being with the tile and o without it:
 *
 *     mean' = mean + sum p (s. - mean) / l
 *     u' = shrink (u - (mean' - mean) o) + sum p (s. - mean') v + p v.
 *
 * So what all s. of a query have in common is taken off before p (s. - mean') is rounded.
 *
 * Lanes. A block takes a primal and some of its tangents, and computes weights once for all of them. Which lanes are a
 * primal's is known to the GPU alone: the grid has a place for every lane, where a block finds out what is its own. The
 * arithmetic is written in fmaf, not left to the compiler, so that a tangent's bits do not depend on what is beside it.
 *
 * Rounding (device_set_tangents). Factors are PARTS = 1 number rounded once, or pairs, PARTS = 2. All of a tangent is
 * multiplied by a power of two, its `unit`, which takes the largest number of q., k. and v. to [1, 2), and y. is divided
 * by it: so tangents of any size round alike. s. and v. are CALM times smaller again, which leaves p (s. - mean') room
 * below 65504 as above half's subnormals.
 */
#ifndef ZOODIP_KERNELS_ATTENTION_TANGENT_H
#define ZOODIP_KERNELS_ATTENTION_TANGENT_H

extern "C" {
#include "device/gpu.h"
}
#include "kernels/attention.h"

struct tangent_args {
    struct attention_args a; /* its q may have primal lanes only */
    const int32_t *of;       /* [lanes]: each lane's primal */
    int primal, lanes, heads;
    bool moves;        /* q has tangents */
    uint16_t *numbers; /* gpu.h: [k, v][parts][lanes][heads][keys][depth] */
    float *largest;    /* [tangents][GPU_SHARES] */
    int parts, depth;
    int group; /* the most tangents of a block */
};

constexpr float CALM = 1.0f / 64;

/* attention_tangent_round.cu: what goes ahead, fills in t.numbers and t.largest. */
void attention_tangent_round(struct device *device, const struct tangent_args &t);

/* attention_tangent_wide.cu: heads of any size. */
void attention_tangent_wide(struct device *device, const struct tangent_args &t);

/* A tangent's unit. Called by a whole warp. */
__device__ static inline float unit_of(const struct tangent_args &t, int lane)
{
    float largest = max_over_warp(t.largest[(lane - t.primal) * GPU_SHARES + (int)threadIdx.x % 32]);
    int exponent = min(max((int)(__float_as_uint(largest) >> 23), 27), 227); // of a float, which begins with 127
    return __uint_as_float((uint32_t)(254 - exponent) << 23);
}

/* k's (which = 0) or v's numbers of a lane and head: [keys][depth]. */
__device__ static inline uint16_t *numbers_of(const struct tangent_args &t, int which, int part, int lane, int head)
{
    int64_t row = (((int64_t)which * t.parts + part) * t.lanes + lane) * t.heads + head;
    return t.numbers + row * t.a.keys_end * t.depth;
}

/* Two numbers as factors. */
template <enum operand O> __device__ static inline void round_two(float x, float y, uint32_t *to_0, uint32_t *to_1)
{
    if (to_1)
        split_two<O>(x, y, to_0, to_1);
    else
        *to_0 = pack_two<O>(x, y);
}

/* acc += a b. */
template <enum operand O, int PARTS, int N>
__device__ static inline void multiply(float (&acc)[N][4], const uint32_t (&a)[PARTS][4],
                                       const uint32_t (&b)[PARTS][N][2])
{
    if (PARTS == 2)
        mma_pairs<O, N>(acc, a[0], a[PARTS - 1], b[0], b[PARTS - 1]);
    else
        mma_tile<O, N>(acc, a[0], b[0]);
}

/* The left factor's fragment of 16 queries, times `factor`: rows `low` (g) and `high` (g + 8), channels [channel,
 * channel + 16). */
template <enum operand O, int PARTS>
__device__ static inline void load_queries(uint32_t (&to)[PARTS][4], const float *low, const float *high, int channel,
                                           int size, float factor)
{
    int c = channel + (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float *row = i % 2 ? high : low;
        int at = c + i / 2 * 8;
        float x = channel_or_zero(row, at, size) * factor, y = channel_or_zero(row, at + 1, size) * factor;
        round_two<O>(x, y, &to[0][i], PARTS == 2 ? &to[PARTS - 1][i] : NULL);
    }
}

#endif
