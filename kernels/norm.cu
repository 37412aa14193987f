/* kernels/norm.cu
 *
 * Group norm and layer norm, and the activation that follows.
 *
 * Idea. Memory bandwidth is the limit, so a lane must be read by many blocks, even if it is the only one. Group norm is
 * two kernels: the first cuts a lane's positions into chunks and writes the mean and the squared deviations of every
 * (chunk, group) to scratch; the second combines a group's chunks and normalizes. A layer norm's row belongs to one
 * warp.
 *
 * Tangents (device/device.h): y. = gain r (x. - mean x. - (x - mean x) pull), pull = r^2 mean((x - mean x)(x. - mean x.)).
 * A tangent finds its primal's mean and variance again, beside its own sums: x must be read for these in any case.
 *
 * Accuracy. Deviations are from the mean of the same numbers, in a second pass, which reads from the cache; parts are
 * combined as in Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
 * (1979): M2 = sum M2_i + sum n_i (m_i - m)^2, and likewise for products of two deviations. No result is the difference
 * of two big numbers, whatever the mean.
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

/* sum + (x - x_centre), each of V numbers. */
template <int V> __device__ float add_deviations(float sum, const float *x, float x_centre)
{
    channels_of<V> numbers = *(const channels_of<V> *)x;
    for (int i = 0; i < V; i++)
        sum += numbers.at[i] - x_centre;
    return sum;
}

/* sum + (x - x_centre) (z - z_centre), each of V numbers. */
template <int V>
__device__ float add_products(float sum, const float *x, float x_centre, const float *z, float z_centre)
{
    channels_of<V> left = *(const channels_of<V> *)x, right = *(const channels_of<V> *)z;
    for (int i = 0; i < V; i++)
        sum = fmaf(left.at[i] - x_centre, right.at[i] - z_centre, sum);
    return sum;
}

/* Of some numbers x, and with tangents of their x.: means, and sums of (x - mean)^2 and (x - mean) (x. - dot_mean). */
struct moments {
    float mean, square;
    float dot_mean, product;
};

/* What a number is normalized by: its group's or row's. */
struct normal {
    float mean, factor; /* factor: 1 / sqrt(variance + eps) */
    float dot_mean, pull;
};

template <bool TANGENT> __device__ normal normal_of(const moments &m, float numbers, float eps)
{
    float factor = 1 / sqrtf(m.square / numbers + eps);
    return {m.mean, factor, m.dot_mean, TANGENT ? factor * factor * (m.product / numbers) : 0};
}

/* y of V channels of x, with gain and shift (NULL: none) of the first; dot: a tangent's x. */
template <int V, bool TANGENT>
__device__ void normalize(float *y, const float *x, const float *dot, const normal (&by)[V], const float (&gain)[V],
                          const float (&shift)[V], enum act act)
{
    channels_of<V> from = *(const channels_of<V> *)x, slopes = *(const channels_of<V> *)(TANGENT ? dot : x), to;
    for (int i = 0; i < V; i++) {
        float away = from.at[i] - by[i].mean, scale = by[i].factor * gain[i], u = fmaf(away, scale, shift[i]);
        if (TANGENT)
            to.at[i] = act_slope(u, act) * (scale * fmaf(-away, by[i].pull, slopes.at[i] - by[i].dot_mean));
        else
            to.at[i] = activated(u, act);
    }
    *(channels_of<V> *)y = to;
}

/* -------------------------------------------------------------------------------- groups: moments */

struct group_args {
    struct view<float> y, x;
    struct view<int32_t> of;   /* tangent lanes' primals */
    int primal;                /* lanes; all others are tangents */
    int first_lane, lanes;     /* of x and y, which this launch is about */
    const float *gain, *shift; /* shift NULL: none */
    float4 *moments;           /* [lanes, groups, chunks]: struct moments */
    int groups, size;          /* channels in a group */
    int chunks, rows;          /* positions in a chunk; the last may have fewer */
    float eps;
    enum act act;
};

__device__ int rows_in(const struct group_args &a, int chunk)
{
    return min(a.rows, a.x.positions - chunk * a.rows);
}

/* Sum over `rows` positions of one group of what add(sum, row, channel) adds for V channels; strided over the warp. */
template <int V, class Add> __device__ float sum_group(const struct group_args &a, int rows, Add add)
{
    int across = a.size / V, row_step = 32 / across, channel_step = 32 % across;
    int row = (int)threadIdx.x % 32 / across, channel = (int)threadIdx.x % 32 % across;
    float sum = 0;
#pragma unroll 4
    while (row < rows) {
        sum = add(sum, row, channel * V);
        row += row_step;
        channel += channel_step;
        if (channel >= across) {
            channel -= across;
            row++;
        }
    }
    return sum_over_warp(sum);
}

/* The first number serves as a first centre, so that even the mean is a sum of small numbers. */
template <int V> __device__ float mean_of_group(const struct group_args &a, const float *from, int rows)
{
    float guess = from[0];
    auto add = [=, &a](float sum, int row, int channel) {
        return add_deviations<V>(sum, from + row * a.x.row_stride + channel, guess);
    };
    return guess + sum_group<V>(a, rows, add) / (float)(rows * a.size);
}

/* Sum of (x - mean) (z - z_mean) over a group. */
template <int V>
__device__ float product_of_group(const struct group_args &a, int rows, const float *x, float mean, const float *z,
                                  float z_mean)
{
    auto add = [=, &a](float sum, int row, int channel) {
        int64_t at = row * a.x.row_stride + channel;
        return add_products<V>(sum, x + at, mean, z + at, z_mean);
    };
    return sum_group<V>(a, rows, add);
}

template <int V, bool TANGENT> __device__ void find_moments(const struct group_args &a, int lane)
{
    int chunk = (int)blockIdx.x;
    int group = (int)blockIdx.y * WARPS + (int)threadIdx.x / 32;
    if (group >= a.groups)
        return;
    int rows = rows_in(a, chunk), first = group * a.size;
    const float *x = row_of(a.x, TANGENT ? a.of.data[lane] : lane, chunk * a.rows) + first;
    moments m = {mean_of_group<V>(a, x, rows), 0, 0, 0};
    m.square = product_of_group<V>(a, rows, x, m.mean, x, m.mean);
    if (TANGENT) {
        const float *dot = row_of(a.x, lane, chunk * a.rows) + first;
        m.dot_mean = mean_of_group<V>(a, dot, rows);
        m.product = product_of_group<V>(a, rows, x, m.mean, dot, m.dot_mean);
    }
    if (threadIdx.x % 32 == 0)
        a.moments[((int64_t)blockIdx.z * a.groups + group) * a.chunks + chunk] =
            make_float4(m.mean, m.square, m.dot_mean, m.product);
}

/* Block: WARPS groups of one chunk of one lane. */
template <int V> __global__ void __launch_bounds__(THREADS) group_moments(const struct group_args a)
{
    int lane = a.first_lane + (int)blockIdx.z;
    if (lane < a.primal)
        find_moments<V, false>(a, lane);
    else
        find_moments<V, true>(a, lane);
}

/* -------------------------------------------------------------------------------- groups: apply */

/* Of all chunks of a group: the mean of what is `at` in float4, weighted by their rows; all but the last have the same
 * size. */
template <int AT> __device__ float join_means(const struct group_args &a, const float4 *from)
{
    const float *at = (const float *)from + AT;
    float guess = at[0], sum = 0;
    for (int c = (int)threadIdx.x % 32; c < a.chunks; c += 32)
        sum = fmaf((float)rows_in(a, c), at[4 * c] - guess, sum);
    return guess + sum_over_warp(sum) / (float)a.x.positions;
}

/* The warp combines the chunks of one group. */
template <bool TANGENT> __device__ normal join_chunks(const struct group_args &a, int part_lane, int group)
{
    const float4 *from = a.moments + ((int64_t)part_lane * a.groups + group) * a.chunks;
    moments m = {join_means<0>(a, from), 0, TANGENT ? join_means<2>(a, from) : 0, 0};
    for (int c = (int)threadIdx.x % 32; c < a.chunks; c += 32) {
        float away = from[c].x - m.mean, weighted = (float)(rows_in(a, c) * a.size) * away;
        m.square += fmaf(weighted, away, from[c].y);
        if (TANGENT)
            m.product += fmaf(weighted, from[c].z - m.dot_mean, from[c].w);
    }
    m.square = sum_over_warp(m.square);
    if (TANGENT)
        m.product = sum_over_warp(m.product);
    return normal_of<TANGENT>(m, (float)a.x.positions * (float)a.size, a.eps);
}

struct apply_shared {
    normal of[SLAB + 1]; /* by group, counted from the slab's first */
};

/* A thread keeps its channels and loops over the rows. */
template <int V, bool TANGENT> __device__ void apply(const struct group_args &a, int lane)
{
    struct apply_shared *s = (struct apply_shared *)shared_memory;
    int chunk = (int)blockIdx.x, slab = (int)blockIdx.y * SLAB;
    int width = min(SLAB, a.x.channels - slab), first = slab / a.size, last = (slab + width - 1) / a.size;
    for (int group = first + (int)threadIdx.x / 32; group <= last; group += WARPS) {
        normal joined = join_chunks<TANGENT>(a, (int)blockIdx.z, group);
        if (threadIdx.x % 32 == 0)
            s->of[group - first] = joined;
    }
    __syncthreads();

    int across = (width + V - 1) / V, down = max(1, THREADS / across), rows = rows_in(a, chunk);
    int primal = TANGENT ? a.of.data[lane] : lane;
    if ((int)threadIdx.x >= across * down)
        return;
    for (int unit = (int)threadIdx.x % across; unit < across; unit += THREADS) {
        int channel = slab + unit * V;
        normal by[V];
        float gain[V], shift[V];
        for (int i = 0; i < V; i++) {
            by[i] = s->of[(channel + i) / a.size - first];
            gain[i] = a.gain[channel + i];
            shift[i] = a.shift ? a.shift[channel + i] : 0;
        }
#pragma unroll 4
        for (int row = (int)threadIdx.x / across; row < rows; row += down) {
            int position = chunk * a.rows + row;
            const float *x = row_of(a.x, primal, position) + channel, *dot = row_of(a.x, lane, position) + channel;
            normalize<V, TANGENT>(row_of(a.y, lane, position) + channel, x, dot, by, gain, shift, a.act);
        }
    }
}

/* Block: up to SLAB channels of one chunk of one lane. */
template <int V> __global__ void __launch_bounds__(THREADS) group_apply(const struct group_args a)
{
    int lane = a.first_lane + (int)blockIdx.z;
    if (lane < a.primal)
        apply<V, false>(a, lane);
    else
        apply<V, true>(a, lane);
}

/* -------------------------------------------------------------------------------- layers */

struct layer_args {
    struct view<float> y, x;
    struct view<int32_t> of; /* tangent lanes' primals */
    int primal, first_lane;
    const float *gain, *shift;
    float eps;
    enum act act;
};

template <int V> __device__ float mean_of_row(const float *from, int channels)
{
    float guess = from[0], sum = 0;
#pragma unroll 4
    for (int c = (int)threadIdx.x % 32 * V; c < channels; c += 32 * V)
        sum = add_deviations<V>(sum, from + c, guess);
    return guess + sum_over_warp(sum) / (float)channels;
}

/* Sum of (x - mean) (z - z_mean) over a row. */
template <int V> __device__ float product_of_row(int channels, const float *x, float mean, const float *z, float z_mean)
{
    float sum = 0;
#pragma unroll 4
    for (int c = (int)threadIdx.x % 32 * V; c < channels; c += 32 * V)
        sum = add_products<V>(sum, x + c, mean, z + c, z_mean);
    return sum_over_warp(sum);
}

template <int V, bool TANGENT> __device__ void normalize_row(const struct layer_args &a, int lane, int position)
{
    int channels = a.x.channels;
    const float *dot = row_of(a.x, lane, position), *x = TANGENT ? row_of(a.x, a.of.data[lane], position) : dot;
    float *to = row_of(a.y, lane, position);
    moments m = {mean_of_row<V>(x, channels), 0, 0, 0};
    m.square = product_of_row<V>(channels, x, m.mean, x, m.mean);
    if (TANGENT) {
        m.dot_mean = mean_of_row<V>(dot, channels);
        m.product = product_of_row<V>(channels, x, m.mean, dot, m.dot_mean);
    }
    normal of_row = normal_of<TANGENT>(m, (float)channels, a.eps), by[V];
    for (int i = 0; i < V; i++)
        by[i] = of_row;
    __syncwarp(); // y may be x, whose first number all threads have read
#pragma unroll 2
    for (int c = (int)threadIdx.x % 32 * V; c < channels; c += 32 * V) {
        float gain[V], shift[V];
        for (int i = 0; i < V; i++) {
            gain[i] = a.gain[c + i];
            shift[i] = a.shift ? a.shift[c + i] : 0;
        }
        normalize<V, TANGENT>(to + c, x + c, dot + c, by, gain, shift, a.act);
    }
}

/* Warp: one row. */
template <int V> __global__ void __launch_bounds__(THREADS) layer_norm(const struct layer_args a)
{
    int position = (int)blockIdx.x * WARPS + (int)threadIdx.x / 32, lane = a.first_lane + (int)blockIdx.z;
    if (position >= a.x.positions)
        return;
    if (lane < a.primal)
        normalize_row<V, false>(a, lane, position);
    else
        normalize_row<V, true>(a, lane, position);
}

/* -------------------------------------------------------------------------------- launching */

bool in_pieces_of(struct tensor t, int64_t by)
{
    return (uintptr_t)tensor_data(t) % (sizeof(float) * (size_t)by) == 0 && t.row_stride % by == 0 &&
           t.lane_stride % by == 0;
}

void norm_layers(struct device *device, struct tensor y, struct tensor x, struct layer_args a, int64_t first,
                 int64_t count)
{
    dim3 grid((unsigned)blocks_for(a.x.positions, WARPS), 1, (unsigned)count);
    bool wide = in_pieces_of(x, 4) && in_pieces_of(y, 4) && x.channels % 4 == 0;
    a.first_lane = (int)first;
    launch(device, "layer_norm", wide ? layer_norm<4> : layer_norm<1>, grid, THREADS, 0, a);
}

void moments_of_groups(struct device *device, struct tensor x, const struct group_args &a)
{
    dim3 grid((unsigned)a.chunks, (unsigned)blocks_for(a.groups, WARPS), (unsigned)a.lanes);
    bool fours = in_pieces_of(x, 4) && a.size % 4 == 0, twos = in_pieces_of(x, 2) && a.size % 2 == 0;
    launch(device, "group_moments",
           fours  ? group_moments<4>
           : twos ? group_moments<2>
                  : group_moments<1>,
           grid, THREADS, 0, a);
}

void apply_to_groups(struct device *device, struct tensor y, struct tensor x, const struct group_args &a)
{
    dim3 grid((unsigned)a.chunks, (unsigned)blocks_for(x.channels, SLAB), (unsigned)a.lanes);
    bool fours = in_pieces_of(x, 4) && in_pieces_of(y, 4) && x.channels % 4 == 0;
    launch(device, "group_apply", fours ? group_apply<4> : group_apply<1>, grid, THREADS, sizeof(struct apply_shared),
           a);
}

/* As many lanes at a time as scratch holds. */
void norm_groups(struct device *device, struct tensor y, struct tensor x, struct group_args a, int64_t first,
                 int64_t count)
{
    int64_t positions = a.x.positions, wanted = blocks_for(positions * a.size, CHUNK);
    int64_t most = MOMENTS / a.groups < MOST_CHUNKS ? MOMENTS / a.groups : MOST_CHUNKS;
    a.rows = (int)blocks_for(positions, wanted < most ? wanted : most);
    a.chunks = (int)blocks_for(positions, a.rows);
    int64_t together = MOMENTS / ((int64_t)a.groups * a.chunks), end = first + count;
    for (; first < end; first += together) {
        a.first_lane = (int)first;
        a.lanes = (int)(end - first < together ? end - first : together);
        moments_of_groups(device, x, a);
        apply_to_groups(device, y, x, a);
    }
}

/* Lanes [first, first + count). */
void norm_lanes(struct device *device, struct tensor y, struct tensor x, const struct weight *w, int64_t groups,
                float eps, enum act act, int64_t first, int64_t count)
{
    const float *gain = (const float *)w->data;
    int primal = (int)primal_lanes(device, x);
    struct view<int32_t> of = view_of<int32_t>(device->tangents.of);
    if (groups == 0) {
        struct layer_args a = {view_of<float>(y), view_of<float>(x), of, primal, 0, gain, w->bias, eps, act};
        norm_layers(device, y, x, a, first, count);
        return;
    }
    struct group_args a = {};
    a.y = view_of<float>(y);
    a.x = view_of<float>(x);
    a.of = of;
    a.primal = primal;
    a.gain = gain;
    a.shift = w->bias;
    a.moments = cuda_of(device)->moments;
    a.groups = (int)groups;
    a.size = (int)(x.channels / groups);
    a.eps = eps;
    a.act = act;
    norm_groups(device, y, x, a, first, count);
}

} // namespace

/* Tangents read their primals' x, so that where y is x the primals come after them. */
void cuda_norm(struct device *device, struct tensor y, struct tensor x, const struct weight *w, int64_t groups,
               float eps, enum act act)
{
    int64_t primal = primal_lanes(device, x);
    bool apart = primal < x.lanes && tensor_data(y) == tensor_data(x);
    if (apart)
        norm_lanes(device, y, x, w, groups, eps, act, primal, x.lanes - primal);
    norm_lanes(device, y, x, w, groups, eps, act, 0, apart ? primal : x.lanes);
}
