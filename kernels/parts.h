/* kernels/parts.h
 *
 * Long sums in parts. Matrix units cut what they add, always towards zero, so a sum over thousands of terms loses bits
 * and shrinks. K is therefore cut into parts of at least 1,024 numbers, each summed by the matrix units from zero, and
 * the parts are added in float, in order.
 *
 * Where a product has fewer tiles than the GPU has processors, every part has a block of its own, which leaves its sums
 * in scratch, and the last of a tile's blocks to arrive adds them: the same sums in the same order.
 *
 * Lanes (device/device.h): how many parts there are follows from K alone, and who sums them changes no bit.
 */
#ifndef ZOODIP_KERNELS_PARTS_H
#define ZOODIP_KERNELS_PARTS_H

#include "kernels/cuda.h"

enum {
    PART_CHUNKS = 32, /* the fewest chunks of 32 in a part: so many cost a sum no more than float's own rounding */
    MOST_PARTS = 6,   /* so that scratch holds the products of a UNet's lowest floor: 60 tiles of 16 KiB */
};

struct parts {
    int length, count; /* chunks of a part; parts */
    bool shared_out;   /* a block for each */
    float4 *sums;      /* [tile][part][number / 4 of a thread's][thread]: scratch */
    unsigned *arrived; /* [tile] blocks so far: zeros before and after a launch */
};

/* ---------------------------------------------------------------------- for launchers */

/* Of K in `chunks`, with tiles of `tile_bytes` of sums. */
static inline struct parts parts_of(struct device *device, int chunks, int64_t tiles, int64_t tile_bytes)
{
    struct parts p = {};
    int most = chunks / PART_CHUNKS;
    if (most > MOST_PARTS)
        most = MOST_PARTS;
    p.length = (int)blocks_for(chunks, most < 1 ? 1 : most);
    p.count = (int)blocks_for(chunks, p.length);
    p.shared_out = p.count > 1 && tiles < cuda_of(device)->processors && tiles <= GPU_TILES &&
                   tiles * p.count * tile_bytes <= GPU_PARTS;
    p.sums = cuda_of(device)->parts;
    p.arrived = cuda_of(device)->arrived;
    return p;
}

/* ---------------------------------------------------------------------- for kernels */

/* total += sums, which begin anew. */
template <int TALL, int WIDE>
__device__ static inline void add_part(float (&total)[TALL][WIDE][4], float (&sums)[TALL][WIDE][4])
{
#pragma unroll
    for (int i = 0; i < TALL; i++)
#pragma unroll
        for (int n = 0; n < WIDE; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                total[i][n][j] += sums[i][n][j];
                sums[i][n][j] = 0;
            }
}

/* The block's part of a tile's sums -> all parts' in the tile's last block, which gets true. `flag` is a word of shared
 * memory. Called by the whole block. */
template <int TALL, int WIDE>
__device__ static inline bool join_parts(const struct parts &p, float (&sums)[TALL][WIDE][4], int tile, int part,
                                         int *flag)
{
    const int threads = (int)blockDim.x, numbers = TALL * WIDE;
    float4 *first = p.sums + (int64_t)tile * p.count * numbers * threads + threadIdx.x;
#pragma unroll
    for (int i = 0; i < numbers; i++) {
        const float(&s)[4] = sums[i / WIDE][i % WIDE];
        first[(part * numbers + i) * threads] = make_float4(s[0], s[1], s[2], s[3]);
    }
    __threadfence();
    __syncthreads(); // all of the block's sums are there, and shared memory is free
    if (threadIdx.x == 0) {
        *flag = atomicAdd(&p.arrived[tile], 1u) == (unsigned)p.count - 1;
        if (*flag)
            p.arrived[tile] = 0;
        __threadfence();
    }
    __syncthreads();
    if (!*flag)
        return false;
    float more[TALL][WIDE][4];
#pragma unroll
    for (int i = 0; i < numbers * 4; i++)
        sums[i / 4 / WIDE][i / 4 % WIDE][i % 4] = 0;
#pragma unroll 1
    for (int q = 0; q < p.count; q++) {
#pragma unroll
        for (int i = 0; i < numbers; i++) {
            float4 v = __ldcg(&first[(q * numbers + i) * threads]);
            float(&s)[4] = more[i / WIDE][i % WIDE];
            s[0] = v.x, s[1] = v.y, s[2] = v.z, s[3] = v.w;
        }
        add_part(sums, more);
    }
    return true;
}

#endif
