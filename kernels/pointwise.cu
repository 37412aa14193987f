/* kernels/pointwise.cu
 *
 * Work done number by number: copies, embeddings, and a lane's squared error.
 *
 * Idea. A thread computes one number, or copies one 16-byte piece where the layout allows; lanes are grid.y. Contents
 * that only a kernel can see (ids, maps) are checked where they are used: a bad one is reported (report_content) and
 * not used.
 *
 * Lanes (device/device.h): a number depends on its own inputs alone, a tangent's on its primal's too. A loss is summed by
 * one block, in double: thread t sums numbers t, t + THREADS, ..., then a tree of fixed form adds the threads' sums.
 */
#include "kernels/cuda.h"

namespace
{

enum { THREADS = 256 };

__device__ int64_t thread_number()
{
    return (int64_t)blockIdx.x * THREADS + threadIdx.x;
}

dim3 grid_over(int64_t items, int64_t lanes)
{
    return dim3((unsigned)blocks_for(items, THREADS), (unsigned)lanes);
}

/* -------------------------------------------------------------------------------- copy */

/* Strides and channels count pieces of T. */
template <class T> struct copy_args {
    struct view<T> y, x;
    struct view<int32_t> map;
    int source_lanes;
    int lanes; /* of y that are copied; all others are tangents of what does not depend on the word */
    struct bad_content *bad_content;
};

/* The lane of `lanes` that lane `lane` reads, or -1, which the block's first thread reports as `error`. */
__device__ int lane_to_read(const struct view<int32_t> &map, int lane, int lanes, struct bad_content *bad_content,
                            enum content_error error = BAD_LANE)
{
    int from = mapped_lane(map, lane);
    if (from >= 0 && from < lanes)
        return from;
    if (threadIdx.x == 0)
        report_content(bad_content, error, from);
    return -1;
}

template <class T> __global__ void __launch_bounds__(THREADS) copy(const struct copy_args<T> a)
{
    int64_t i = thread_number();
    int position = (int)(i / a.y.channels), channel = (int)(i % a.y.channels), lane = (int)blockIdx.y;
    int from = lane < a.lanes ? lane_to_read(a.map, lane, a.source_lanes, a.bad_content) : 0;
    if (from >= 0 && position < a.y.positions)
        row_of(a.y, lane, position)[channel] = lane < a.lanes ? row_of(a.x, from, position)[channel] : T();
}

/* Both tensors in pieces of T. */
template <class T> void copy_pieces(struct device *device, struct tensor y, struct tensor x, struct tensor map)
{
    int lanes = (int)(only_primal(device, x, y) ? x.lanes : y.lanes);
    struct copy_args<T> a = {
        view_of<T>(y), view_of<T>(x), view_of<int32_t>(map), (int)x.lanes, lanes, cuda_of(device)->bad_content
    };
    int64_t size = dtype_size(y.type), piece = (int64_t)sizeof(T);
    for (struct view<T> *v : {&a.y, &a.x}) {
        v->lane_stride = v->lane_stride * size / piece;
        v->row_stride = v->row_stride * size / piece;
        v->channels = (int)(v->channels * size / piece);
    }
    launch(device, "copy", copy<T>, grid_over((int64_t)a.y.positions * a.y.channels, y.lanes), THREADS, 0, a);
}

/* -------------------------------------------------------------------------------- embeddings */

struct table {
    const float *rows;
    const int32_t *place;
    int count; /* of ids */
};

struct embed_args {
    struct view<float> y;
    struct view<const float> rows;
    struct view<const int32_t> ids;
    struct table table, positions;
    int64_t first;
    struct view<int32_t> of; /* tangent lanes' primals */
    int primal;              /* lanes */
    float scale;             /* of tangents */
    struct bad_content *bad_content;
};

/* A table's row for an id, NULL if there is none. */
__device__ const float *find_row(const struct table &t, int id, int dim)
{
    int place = id >= 0 && id < t.count ? t.place[id] : -1;
    return place < 0 ? NULL : t.rows + (int64_t)place * dim;
}

/* Only the word's rows have a derivative: a tangent lane's own, which are its direction. */
__device__ void embed_tangent(const struct embed_args &a, int lane, int position, const float *direction)
{
    if (lane_to_read(a.of, lane, a.primal, a.bad_content, BAD_PRIMAL) < 0)
        return;
    for (int c = (int)threadIdx.x; c < a.y.channels; c += THREADS)
        row_of(a.y, lane, position)[c] = direction ? a.scale * direction[c] : 0;
}

/* Block: one position of one lane. */
__global__ void __launch_bounds__(THREADS) embed(const struct embed_args a)
{
    int position = (int)blockIdx.x, lane = (int)blockIdx.y, dim = a.y.channels, id = *row_of(a.ids, lane, position);
    const float *own = NULL, *place = find_row(a.positions, position, dim);
    if (id >= a.first && id - a.first < a.rows.positions)
        own = row_of(a.rows, lane, (int)(id - a.first));
    const float *word = id < a.first ? find_row(a.table, id, dim) : own;
    if (!word || !place) {
        if (threadIdx.x == 0)
            report_content(a.bad_content, BAD_ID, word ? position : id);
        return;
    }
    if (lane >= a.primal) {
        embed_tangent(a, lane, position, own);
        return;
    }
    for (int c = (int)threadIdx.x; c < dim; c += THREADS)
        row_of(a.y, lane, position)[c] = word[c] + place[c];
}

struct table table_of(const struct weight *w)
{
    return {w->rows, w->place, w->place ? (int)w->out : 0};
}

struct timestep_args {
    struct view<float> y, t;
    bool flip_sin_to_cos;
    float shift;
};

/* As the CPU device: e_j = exp(-log(10000) j / (half - shift)), then sin and cos of t e_j, each in double and rounded
 * once. */
__global__ void __launch_bounds__(THREADS) embed_timestep(const struct timestep_args a)
{
    int j = (int)thread_number(), lane = (int)blockIdx.y, half = a.y.channels / 2;
    float *to = row_of(a.y, lane, 0);
    if (j == half && a.y.channels % 2)
        to[a.y.channels - 1] = 0;
    if (j >= half)
        return;
    float exponent = -9.210340371976184f * (float)j / ((float)half - a.shift);
    float angle = *row_of(a.t, lane, 0) * (float)exp((double)exponent);
    to[a.flip_sin_to_cos ? half + j : j] = (float)sin((double)angle);
    to[a.flip_sin_to_cos ? j : half + j] = (float)cos((double)angle);
}

/* -------------------------------------------------------------------------------- loss */

enum { LOSS_THREADS = 1024 };

struct loss_args {
    struct view<double> slots;
    struct view<const float> pred, target, mask; /* mask: a weight for each position of target, or no data */
    struct view<int32_t> map, of;                /* of: tangent lanes' primals */
    int target_lanes, primal;                    /* primal: lanes of pred */
    double scale;                                /* of tangents */
    struct bad_content *bad_content;
};

struct loss_shared {
    double of_warp[32];
};

/* Block: one lane. A tangent's is the loss's derivative, from its primal's prediction and target. */
__global__ void __launch_bounds__(LOSS_THREADS) mean_squared_error(const struct loss_args a)
{
    struct loss_shared *s = (struct loss_shared *)shared_memory;
    int lane = (int)blockIdx.x, thread = (int)threadIdx.x, channels = a.pred.channels;
    bool tangent = lane >= a.primal;
    int primal = tangent ? lane_to_read(a.of, lane, a.primal, a.bad_content, BAD_PRIMAL) : lane;
    int from = primal < 0 ? -1 : lane_to_read(a.map, primal, a.target_lanes, a.bad_content);
    if (from < 0)
        return;
    int64_t numbers = (int64_t)a.pred.positions * channels;
    double sum = 0;
    for (int64_t i = thread; i < numbers; i += LOSS_THREADS) {
        int position = (int)(i / channels), channel = (int)(i % channels);
        double away =
            (double)row_of(a.pred, primal, position)[channel] - (double)row_of(a.target, from, position)[channel];
        double other = tangent ? (double)row_of(a.pred, lane, position)[channel] : away;
        sum = fma(away, a.mask.data ? (double)*row_of(a.mask, from, position) * other : other, sum);
    }
    sum = sum_over_warp(sum);
    if (thread % 32 == 0)
        s->of_warp[thread / 32] = sum;
    __syncthreads();
    if (thread >= 32)
        return;
    sum = sum_over_warp(s->of_warp[thread]);
    if (thread == 0)
        *row_of(a.slots, lane, 0) = (tangent ? 2 * sum / a.scale : sum) / (double)numbers;
}

} // namespace

/* -------------------------------------------------------------------------------- launching */

/* The widest piece of which addresses, strides and channels are multiples. */
void cuda_copy(struct device *device, struct tensor y, struct tensor x, struct tensor map)
{
    uint64_t size = (uint64_t)dtype_size(y.type), all = 0;
    for (const struct tensor *t : {&y, &x})
        all |= (uint64_t)(uintptr_t)tensor_data(*t) | ((uint64_t)t->lane_stride | (uint64_t)t->row_stride) * size;
    all |= (uint64_t)y.channels * size;
    if (all % 16 == 0)
        copy_pieces<int4>(device, y, x, map);
    else if (all % 4 == 0)
        copy_pieces<int32_t>(device, y, x, map);
    else
        copy_pieces<uint8_t>(device, y, x, map);
}

void cuda_embed(struct device *device, struct tensor y, struct tensor ids, const struct weight *table,
                const struct weight *positions, struct tensor rows, int64_t first)
{
    struct embed_args a = {};
    a.y = view_of<float>(y);
    a.rows = view_of<const float>(rows);
    a.ids = view_of<const int32_t>(ids);
    a.table = table_of(table);
    a.positions = table_of(positions);
    a.first = first;
    a.of = view_of<int32_t>(device->tangents.of);
    a.primal = (int)primal_lanes(device, y);
    a.scale = (float)device->tangents.scale;
    a.bad_content = cuda_of(device)->bad_content;
    launch(device, "embed", embed, dim3((unsigned)a.y.positions, (unsigned)y.lanes), THREADS, 0, a);
}

void cuda_timestep(struct device *device, struct tensor y, struct tensor t, bool flip_sin_to_cos, float shift)
{
    struct timestep_args a = {view_of<float>(y), view_of<float>(t), flip_sin_to_cos, shift};
    launch(device, "embed_timestep", embed_timestep, grid_over(y.channels / 2 + 1, y.lanes), THREADS, 0, a);
}

void cuda_loss(struct device *device, struct tensor slots, struct tensor pred, struct tensor target, struct tensor map,
               struct tensor mask)
{
    struct loss_args a = {};
    a.mask = view_of<const float>(mask);
    a.slots = view_of<double>(slots);
    a.pred = view_of<const float>(pred);
    a.target = view_of<const float>(target);
    a.map = view_of<int32_t>(map);
    a.of = view_of<int32_t>(device->tangents.of);
    a.target_lanes = (int)target.lanes;
    a.primal = (int)primal_lanes(device, pred);
    a.scale = device->tangents.scale;
    a.bad_content = cuda_of(device)->bad_content;
    launch(device, "mean_squared_error", mean_squared_error, dim3((unsigned)pred.lanes), LOSS_THREADS,
           sizeof(struct loss_shared), a);
}
