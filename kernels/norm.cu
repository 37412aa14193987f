/* kernels/norm.cu
 *
 * Group norm and layer norm, and the activation that follows.
 *
 * Idea. Memory bandwidth is the limit, so a lane must be read by many blocks, even if it is the only one. Group norm is
 * two kernels: the first cuts a lane's positions into chunks and writes the mean and the squared deviations of every
 * (chunk, group) to scratch; the second combines a group's chunks and normalizes. A layer norm's row belongs to one
 * warp.
 *
 * Accuracy. Deviations are from the mean of the same numbers, in a second pass, which reads from the cache; parts are
 * combined as in Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
 * (1979): M2 = sum M2_i + sum n_i (m_i - m)^2. No result is the difference of two big numbers, whatever the mean.
 *
 * Lanes (device/device.h): chunks follow from one lane's positions and groups; lanes are a grid
 * dimension, or a launch of their own where scratch is short. Every sum is a loop of fixed stride and a tree of fixed
 * form.
 */
#include "kernels/cuda.h"

namespace
{

enum {
    WARPS = 8,
    THREADS = 32 * WARPS,
    MOST_CHUNKS = 64,
    CHUNK = 768, /* numbers of a group that are worth a warp */
    SLAB = 512,  /* channels of a block that normalizes */
};

/* V neighbouring channels, read and written at once. */
template <int V> struct alignas(4 * V) channels_of {
    float at[V];
};

/* -------------------------------------------------------------------------------- groups: moments */

struct group_args {
    struct view<float> y, x;
    const float *gain, *shift; /* shift NULL: none */
    float2 *moments;           /* [lanes, groups, chunks]: mean, sum of squared deviations */
    int groups, size;          /* channels in a group */
    int chunks, rows;          /* positions in a chunk; the last may have fewer */
    float eps;
    enum act act;
};

__device__ int rows_in(const struct group_args &a, int chunk)
{
    return min(a.rows, a.x.positions - chunk * a.rows);
}

/* Sum over `rows` positions of one group of (x - centre), or of its square: V channels a step, strided over the
 * warp. */
template <int V, bool SQUARED>
__device__ float sum_group(const struct group_args &a, const float *from, int rows, float centre)
{
    int across = a.size / V, row_step = 32 / across, channel_step = 32 % across;
    int row = (int)threadIdx.x % 32 / across, channel = (int)threadIdx.x % 32 % across;
    float sum = 0;
#pragma unroll 4
    while (row < rows) {
        channels_of<V> x = *(const channels_of<V> *)(from + row * a.x.row_stride + channel * V);
        for (int i = 0; i < V; i++) {
            float away = x.at[i] - centre;
            sum = SQUARED ? fmaf(away, away, sum) : sum + away;
        }
        row += row_step;
        channel += channel_step;
        if (channel >= across) {
            channel -= across;
            row++;
        }
    }
    return sum_over_warp(sum);
}

/* Block: WARPS groups of one chunk of one lane. The first number serves as a first centre, so that even the mean is a
 * sum of small numbers. */
template <int V> __global__ void __launch_bounds__(THREADS) group_moments(const struct group_args a)
{
    int chunk = (int)blockIdx.x, lane = (int)blockIdx.z, group = (int)blockIdx.y * WARPS + (int)threadIdx.x / 32;
    if (group >= a.groups)
        return;
    const float *from = row_of(a.x, lane, chunk * a.rows) + group * a.size;
    int rows = rows_in(a, chunk);
    float guess = from[0], mean = guess + sum_group<V, false>(a, from, rows, guess) / (float)(rows * a.size);
    float square = sum_group<V, true>(a, from, rows, mean);
    if (threadIdx.x % 32 == 0)
        a.moments[((int64_t)lane * a.groups + group) * a.chunks + chunk] = make_float2(mean, square);
}

/* -------------------------------------------------------------------------------- groups: apply */

/* The warp combines the chunks of one group into (mean, 1 / sqrt(variance + eps)). Chunks are weighted by their rows;
 * all but the last have the same size. */
__device__ float2 join_chunks(const struct group_args &a, int lane, int group)
{
    const float2 *from = a.moments + ((int64_t)lane * a.groups + group) * a.chunks;
    float total = (float)a.x.positions, guess = from[0].x, sum = 0, square = 0;
    for (int c = (int)threadIdx.x % 32; c < a.chunks; c += 32)
        sum = fmaf((float)rows_in(a, c), from[c].x - guess, sum);
    float mean = guess + sum_over_warp(sum) / total;
    for (int c = (int)threadIdx.x % 32; c < a.chunks; c += 32) {
        float away = from[c].x - mean;
        square += fmaf((float)(rows_in(a, c) * a.size) * away, away, from[c].y);
    }
    float variance = sum_over_warp(square) / (total * (float)a.size);
    return make_float2(mean, 1 / sqrtf(variance + a.eps));
}

struct apply_shared {
    float2 of[SLAB + 1]; /* by group, counted from the slab's first: mean, factor */
};

/* Block: up to SLAB channels of one chunk of one lane. A thread keeps its channels and loops over the rows. */
template <int V> __global__ void __launch_bounds__(THREADS) group_apply(const struct group_args a)
{
    struct apply_shared *s = (struct apply_shared *)shared_memory;
    int chunk = (int)blockIdx.x, lane = (int)blockIdx.z, slab = (int)blockIdx.y * SLAB;
    int width = min(SLAB, a.x.channels - slab), first = slab / a.size, last = (slab + width - 1) / a.size;
    for (int group = first + (int)threadIdx.x / 32; group <= last; group += WARPS) {
        float2 joined = join_chunks(a, lane, group);
        if (threadIdx.x % 32 == 0)
            s->of[group - first] = joined;
    }
    __syncthreads();

    int across = (width + V - 1) / V, down = max(1, THREADS / across), rows = rows_in(a, chunk);
    if ((int)threadIdx.x >= across * down)
        return;
    for (int unit = (int)threadIdx.x % across; unit < across; unit += THREADS) {
        float mean[V], by[V], plus[V];
        for (int i = 0; i < V; i++) {
            int channel = slab + unit * V + i;
            float2 moments = s->of[channel / a.size - first];
            mean[i] = moments.x;
            by[i] = moments.y * a.gain[channel];
            plus[i] = a.shift ? a.shift[channel] : 0;
        }
#pragma unroll 4
        for (int row = (int)threadIdx.x / across; row < rows; row += down) {
            int position = chunk * a.rows + row;
            auto *from = (const channels_of<V> *)(row_of(a.x, lane, position) + slab) + unit;
            auto *to = (channels_of<V> *)(row_of(a.y, lane, position) + slab) + unit;
            channels_of<V> x = *from;
            for (int i = 0; i < V; i++)
                x.at[i] = activated(fmaf(x.at[i] - mean[i], by[i], plus[i]), a.act);
            *to = x;
        }
    }
}

/* -------------------------------------------------------------------------------- layers */

struct layer_args {
    struct view<float> y, x;
    const float *gain, *shift;
    float eps;
    enum act act;
};

template <int V, bool SQUARED> __device__ float sum_row(const float *from, int channels, float centre)
{
    float sum = 0;
#pragma unroll 4
    for (int c = (int)threadIdx.x % 32 * V; c < channels; c += 32 * V) {
        channels_of<V> x = *(const channels_of<V> *)(from + c);
        for (int i = 0; i < V; i++) {
            float away = x.at[i] - centre;
            sum = SQUARED ? fmaf(away, away, sum) : sum + away;
        }
    }
    return sum_over_warp(sum);
}

/* Warp: one row. */
template <int V> __global__ void __launch_bounds__(THREADS) layer_norm(const struct layer_args a)
{
    int position = (int)blockIdx.x * WARPS + (int)threadIdx.x / 32, channels = a.x.channels;
    if (position >= a.x.positions)
        return;
    const float *from = row_of(a.x, (int)blockIdx.z, position);
    float *to = row_of(a.y, (int)blockIdx.z, position);
    float guess = from[0], mean = guess + sum_row<V, false>(from, channels, guess) / (float)channels;
    float variance = sum_row<V, true>(from, channels, mean) / (float)channels, factor = 1 / sqrtf(variance + a.eps);
#pragma unroll 2
    for (int c = (int)threadIdx.x % 32 * V; c < channels; c += 32 * V) {
        channels_of<V> x = *(const channels_of<V> *)(from + c);
        for (int i = 0; i < V; i++)
            x.at[i] = activated(fmaf(x.at[i] - mean, factor * a.gain[c + i], a.shift ? a.shift[c + i] : 0), a.act);
        *(channels_of<V> *)(to + c) = x;
    }
}

/* -------------------------------------------------------------------------------- launching */

bool in_pieces_of(struct tensor t, int64_t by)
{
    return (uintptr_t)tensor_data(t) % (sizeof(float) * (size_t)by) == 0 && t.row_stride % by == 0 &&
           t.lane_stride % by == 0;
}

void norm_layers(struct device *device, struct tensor y, struct tensor x, const struct layer_args &a)
{
    dim3 grid((unsigned)blocks_for(a.x.positions, WARPS), 1, (unsigned)x.lanes);
    bool wide = in_pieces_of(x, 4) && in_pieces_of(y, 4) && x.channels % 4 == 0;
    launch(device, "layer_norm", wide ? layer_norm<4> : layer_norm<1>, grid, THREADS, 0, a);
}

void moments_of_groups(struct device *device, struct tensor x, const struct group_args &a)
{
    dim3 grid((unsigned)a.chunks, (unsigned)blocks_for(a.groups, WARPS), (unsigned)a.x.lanes);
    bool fours = in_pieces_of(x, 4) && a.size % 4 == 0, twos = in_pieces_of(x, 2) && a.size % 2 == 0;
    launch(device, "group_moments",
           fours  ? group_moments<4>
           : twos ? group_moments<2>
                  : group_moments<1>,
           grid, THREADS, 0, a);
}

void apply_to_groups(struct device *device, struct tensor y, struct tensor x, const struct group_args &a)
{
    dim3 grid((unsigned)a.chunks, (unsigned)blocks_for(x.channels, SLAB), (unsigned)a.x.lanes);
    bool fours = in_pieces_of(x, 4) && in_pieces_of(y, 4) && x.channels % 4 == 0;
    launch(device, "group_apply", fours ? group_apply<4> : group_apply<1>, grid, THREADS, sizeof(struct apply_shared),
           a);
}

/* As many lanes at a time as scratch holds. */
void norm_groups(struct device *device, struct tensor y, struct tensor x, struct group_args a)
{
    int64_t positions = a.x.positions, wanted = blocks_for(positions * a.size, CHUNK);
    int64_t most = MOMENTS / a.groups < MOST_CHUNKS ? MOMENTS / a.groups : MOST_CHUNKS;
    a.rows = (int)blocks_for(positions, wanted < most ? wanted : most);
    a.chunks = (int)blocks_for(positions, a.rows);
    int64_t together = MOMENTS / ((int64_t)a.groups * a.chunks);
    for (int64_t first = 0; first < x.lanes; first += together) {
        struct group_args part = a;
        part.x.data += first * x.lane_stride;
        part.y.data += first * y.lane_stride;
        part.x.lanes = part.y.lanes = (int)(x.lanes - first < together ? x.lanes - first : together);
        moments_of_groups(device, x, part);
        apply_to_groups(device, y, x, part);
    }
}

} // namespace

void cuda_norm(struct device *device, struct tensor y, struct tensor x, const struct weight *w, int64_t groups,
               float eps, enum act act)
{
    const float *gain = (const float *)w->data;
    if (groups == 0) {
        norm_layers(device, y, x, {view_of<float>(y), view_of<float>(x), gain, w->bias, eps, act});
        return;
    }
    struct group_args a = {};
    a.y = view_of<float>(y);
    a.x = view_of<float>(x);
    a.gain = gain;
    a.shift = w->bias;
    a.moments = cuda_of(device)->moments;
    a.groups = (int)groups;
    a.size = (int)(x.channels / groups);
    a.eps = eps;
    a.act = act;
    norm_groups(device, y, x, a);
}
