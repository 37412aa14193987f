/* kernels/attention_tangent_round.cu
 *
 * What goes ahead of attention in a program with tangents (attention_tangent.h): one kernel finds each tangent's largest
 * number, another rounds all k and v, so that this is not done again for each block of queries.
 */
#include "kernels/attention_tangent.h"

namespace
{

enum { WARPS = 8, THREADS = 32 * WARPS };

/* Largest number of the warp's share of positions. */
__device__ float largest_of(const struct view<const float> &x, int lane)
{
    float largest = 0;
    int warp = (int)(blockIdx.x * WARPS + threadIdx.x / 32);
    for (int position = warp; position < x.positions; position += WARPS * GPU_SHARES) {
        const float *row = row_of(x, lane, position);
        for (int c = (int)threadIdx.x % 32; c < x.channels; c += 32)
            largest = fmaxf(largest, fabsf(row[c]));
    }
    return largest;
}

/* Block: a share of the positions of a tangent. */
__global__ void __launch_bounds__(THREADS) find_largest(const struct tangent_args t)
{
    float *of_warps = (float *)shared_memory;
    int lane = t.primal + (int)blockIdx.y;
    float largest = fmaxf(largest_of(t.a.k, lane), largest_of(t.a.v, lane));
    if (t.moves)
        largest = fmaxf(largest, largest_of(t.a.q, lane));
    largest = max_over_warp(largest);
    if (threadIdx.x % 32 == 0)
        of_warps[threadIdx.x / 32] = largest;
    __syncthreads();
    for (int i = 0; i < WARPS; i++)
        largest = fmaxf(largest, of_warps[i]);
    if (threadIdx.x == 0)
        t.largest[blockIdx.y * GPU_SHARES + blockIdx.x] = largest;
}

/* A thread rounds two channels of k (blockIdx.y = 0) or v of a lane. */
template <enum operand O, int PARTS> __global__ void __launch_bounds__(THREADS) round_keys(const struct tangent_args t)
{
    int which = (int)blockIdx.y, lane = (int)blockIdx.z, twos = t.depth / 2;
    float factor = lane < t.primal ? 1 : unit_of(t, lane) * (which ? CALM : 1);
    int i = (int)(blockIdx.x * THREADS + threadIdx.x), row = i / twos;
    int channel = i % twos * 2, head = row % t.heads, key = row / t.heads;
    if (key >= t.a.keys_end)
        return;
    const float *from = row_of(which ? t.a.v : t.a.k, lane, key) + head * t.a.size;
    float x = channel_or_zero(from, channel, t.a.size) * factor;
    float y = channel_or_zero(from, channel + 1, t.a.size) * factor;
    uint32_t *to[2] = {};
    for (int part = 0; part < PARTS; part++)
        to[part] = (uint32_t *)(numbers_of(t, which, part, lane, head) + (int64_t)key * t.depth + channel);
    round_two<O>(x, y, to[0], to[1]);
}

template <enum operand O, int PARTS> void start(struct device *device, const struct tangent_args &t)
{
    int64_t numbers = (int64_t)t.a.keys_end * t.heads * t.depth;
    dim3 grid((unsigned)blocks_for(numbers / 2, THREADS), 2, (unsigned)t.lanes);
    launch(device, "round_keys", round_keys<O, PARTS>, grid, THREADS, 0, t);
}

} // namespace

void attention_tangent_round(struct device *device, const struct tangent_args &t)
{
    dim3 grid(GPU_SHARES, (unsigned)(t.lanes - t.primal));
    if (t.lanes > t.primal)
        launch(device, "find_largest", find_largest, grid, THREADS, WARPS * sizeof(float), t);
    if (cuda_of(device)->operand == HALF)
        t.parts == 1 ? start<HALF, 1>(device, t) : start<HALF, 2>(device, t);
    else
        t.parts == 1 ? start<BFLOAT, 1>(device, t) : start<BFLOAT, 2>(device, t);
}
