/* kernels/step.cu
 *
 * A training step's own ops: draws, directions mixed from a basis, noisy pictures, perturbed rows, and the update.
 *
 * Idea. This work is small compared with the networks, but on the host it would split the step in two. The arithmetic
 * is that of base/rng_core.h and device/step_core.h, the same lines that the CPU runs, compiled with -fmad=false so
 * that both round alike. The update is one block: its sums (a projection onto some hundred directions) need barriers
 * more than parallelism.
 */
#include "base/rng_core.h"
#include "device/step_core.h"
#include "kernels/cuda.h"

enum { THREADS = 256 };

/* -------------------------------------------------------------------------------- draws */

struct draw_args {
    float *y;
    const int64_t *step;
    int64_t numbers; /* of a lane */
    uint64_t seed;
    uint32_t stream;
};

/* A thread draws a block of four; a lane is a stream. */
__global__ void draw_kernel(const struct draw_args a)
{
    int64_t block = (int64_t)blockIdx.x * THREADS + threadIdx.x, first = block * 4;
    if (first >= a.numbers)
        return;
    uint32_t words[4];
    float normals[4];
    rng_block(a.seed, (uint64_t)*a.step, a.stream + blockIdx.y, (uint32_t)block, words);
    rng_normal_pair(words, normals);
    rng_normal_pair(words + 2, normals + 2);
    for (int64_t i = 0; i < 4 && first + i < a.numbers; i++)
        a.y[blockIdx.y * a.numbers + first + i] = normals[i];
}

void cuda_draw(struct device *device, struct tensor y, struct tensor step, uint64_t seed, uint32_t stream)
{
    const int64_t most = 65535; // of a grid's second dimension
    for (int64_t first = 0; first < y.lanes; first += most) {
        const struct draw_args a = {(float *)tensor_data(y) + first * y.lane_stride, (const int64_t *)tensor_data(step),
                                    y.lane_stride, seed, stream + (uint32_t)first};
        dim3 grid((unsigned)blocks_for(a.numbers, 4 * THREADS),
                  (unsigned)(y.lanes - first < most ? y.lanes - first : most));
        launch(device, "op_draw", draw_kernel, grid, THREADS, 0, a);
    }
}

/* -------------------------------------------------------------------------------- noisy pictures */

struct add_noise_args {
    float *noisy, *target, *timesteps;
    const float *moments, *posterior, *noise, *levels;
    const int32_t *choice;
    int64_t positions;
    int channels, rows, levels_count, batch;
    float scaling;
    bool velocity;
    struct bad_content *bad_content;
};

/* A thread makes one number of one picture. */
__global__ void add_noise_kernel(const struct add_noise_args a)
{
    int64_t numbers = a.positions * a.channels, i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int32_t *choice = a.choice + blockIdx.y * 3;
    int row = choice[0], timestep = choice[1], place = choice[2];
    if (row < 0 || row >= a.rows || timestep < 0 || timestep >= a.levels_count || place < 0 || place >= a.batch) {
        report_content(a.bad_content, BAD_CHOICE, row);
        return;
    }
    if (i == 0)
        a.timesteps[blockIdx.y] = (float)timestep;
    if (i >= numbers)
        return;
    int64_t position = i / a.channels, channel = i - position * a.channels;
    const float *moments = a.moments + (row * a.positions + position) * 2 * a.channels + channel;
    step_add_noise(moments[0], moments[a.channels], a.posterior ? a.posterior[place * numbers + i] : 0,
                   a.noise[place * numbers + i], a.scaling, a.levels[2 * timestep], a.levels[2 * timestep + 1],
                   a.velocity, a.noisy + blockIdx.y * numbers + i, a.target + blockIdx.y * numbers + i);
}

void cuda_add_noise(struct device *device, struct tensor noisy, struct tensor target, struct tensor timesteps,
                    const struct add_noise *n)
{
    struct add_noise_args a = {};
    a.noisy = (float *)tensor_data(noisy);
    a.target = (float *)tensor_data(target);
    a.timesteps = (float *)tensor_data(timesteps);
    a.moments = (const float *)tensor_data(n->moments);
    a.posterior = n->posterior.base ? (const float *)tensor_data(n->posterior) : nullptr;
    a.noise = (const float *)tensor_data(n->noise);
    a.levels = (const float *)tensor_data(n->levels);
    a.choice = (const int32_t *)tensor_data(n->choice);
    a.positions = noisy.height * noisy.width;
    a.channels = (int)noisy.channels;
    a.rows = (int)n->moments.lanes;
    a.levels_count = (int)n->levels.lanes;
    a.batch = (int)n->noise.lanes;
    a.scaling = n->scaling;
    a.velocity = n->velocity;
    a.bad_content = cuda_of(device)->bad_content;
    dim3 grid((unsigned)blocks_for(noisy.lane_stride, THREADS), (unsigned)noisy.lanes);
    launch(device, "op_add_noise", add_noise_kernel, grid, THREADS, 0, a);
}

/* -------------------------------------------------------------------------------- perturbed rows */

struct perturb_args {
    float *rows;
    const float *embedding, *directions;
    const int32_t *which;
    int64_t dim;
    int count; /* of directions */
    double eps;
    struct bad_content *bad_content;
};

__global__ void perturb_kernel(const struct perturb_args a)
{
    int64_t k = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int which = a.which[blockIdx.y];
    if (which < -a.count || which > a.count) {
        report_content(a.bad_content, BAD_CHOICE, which);
        return;
    }
    int i = which < 0 ? -which : which;
    if (k >= a.dim)
        return;
    float e = a.embedding[k];
    a.rows[blockIdx.y * a.dim + k] =
        i == 0 ? e : step_perturb(e, which < 0 ? -a.eps : a.eps, a.directions[(i - 1) * a.dim + k]);
}

void cuda_perturb(struct device *device, struct tensor rows, struct tensor embedding, struct tensor directions,
                  struct tensor which, double eps)
{
    const struct perturb_args a = {(float *)tensor_data(rows),
                                   (const float *)tensor_data(embedding),
                                   (const float *)tensor_data(directions),
                                   (const int32_t *)tensor_data(which),
                                   embedding.lane_stride,
                                   (int)directions.lanes,
                                   eps,
                                   cuda_of(device)->bad_content};
    dim3 grid((unsigned)blocks_for(a.dim, THREADS), (unsigned)rows.lanes);
    launch(device, "op_perturb", perturb_kernel, grid, THREADS, 0, a);
}

/* -------------------------------------------------------------------------------- mixed directions */

struct mix_args {
    float *y;
    const float *weights, *basis;
    int64_t rank, dim;
};

/* A thread makes one number of one row. */
__global__ void mix_kernel(const struct mix_args a)
{
    int64_t k = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (k >= a.dim)
        return;
    double sum = 0;
    for (int64_t r = 0; r < a.rank; r++)
        sum += (double)a.weights[blockIdx.y * a.rank + r] * (double)a.basis[r * a.dim + k];
    a.y[blockIdx.y * a.dim + k] = (float)sum;
}

void cuda_mix(struct device *device, struct tensor y, struct tensor weights, struct tensor basis)
{
    const int64_t most = 65535; // of a grid's second dimension
    int64_t rows = weights.lanes * weights.height * weights.width;
    for (int64_t first = 0; first < rows; first += most) {
        const struct mix_args a = {(float *)tensor_data(y) + first * basis.channels,
                                   (const float *)tensor_data(weights) + first * weights.channels,
                                   (const float *)tensor_data(basis), basis.lanes, basis.channels};
        dim3 grid((unsigned)blocks_for(a.dim, THREADS), (unsigned)(rows - first < most ? rows - first : most));
        launch(device, "op_mix", mix_kernel, grid, THREADS, 0, a);
    }
}

/* -------------------------------------------------------------------------------- update */

enum { UPDATE_THREADS = 512, WARPS = UPDATE_THREADS / 32, AT_ONCE = 256 };

struct update_args {
    float *embedding, *m, *v;
    double *gradient;
    const double *slots, *rates;
    const float *directions, *removed, *basis;
    double *coordinates;
    const int32_t *removed_rows;
    int64_t dim, rank;
    int rows, most_rows; /* of directions, of removed ones */
    struct step_slots layout;
    struct step_betas adam;
};

/* Factors of the directions that one pass over the gradient handles. */
struct update_memory {
    double factors[AT_ONCE];
};

/* to[k] += sum_i sign factors[i] rows[i][k], k = 0..dim - 1, in the order of i. A thread keeps to its own k. */
__device__ static void add_rows(double *to, int64_t dim, const double *factors, const float *rows, int64_t count,
                                double sign)
{
    for (int64_t k = threadIdx.x; k < dim; k += UPDATE_THREADS) {
        double g = to[k];
        for (int64_t i = 0; i < count; i++)
            g += sign * factors[i] * (double)rows[i * dim + k];
        to[k] = g;
    }
}

__device__ static void clear(double *x, int64_t count)
{
    for (int64_t k = threadIdx.x; k < count; k += UPDATE_THREADS)
        x[k] = 0;
}

/* Of the word, or in the basis. */
__device__ static void estimate(const struct update_args &a, struct update_memory &s, double *gradient, int64_t dim)
{
    clear(gradient, dim);
    for (int first = 0; first < a.rows; first += AT_ONCE) {
        int count = min(AT_ONCE, a.rows - first), i = (int)threadIdx.x;
        __syncthreads();
        if (i < count)
            s.factors[i] = step_factor(&a.layout, a.slots, first + i, a.rows, a.rates[0]);
        __syncthreads();
        add_rows(gradient, dim, s.factors, a.directions + first * dim, count, 1);
    }
}

/* The product of the gradient and one direction, by a warp: each thread sums its numbers, then a tree adds the
 * threads'. */
__device__ static double product_with(const struct update_args &a, const float *row)
{
    double sum = 0;
    for (int64_t k = threadIdx.x % 32; k < a.dim; k += 32)
        sum += a.gradient[k] * (double)row[k];
    return sum_over_warp(sum);
}

/* products[i] = the gradient's with rows[i]. */
__device__ static void multiply(const struct update_args &a, double *products, const float *rows, int64_t count)
{
    for (int64_t i = threadIdx.x / 32; i < count; i += WARPS) {
        double product = product_with(a, rows + i * a.dim);
        if (threadIdx.x % 32 == 0)
            products[i] = product;
    }
}

/* The directions are orthonormal, so removing several at once equals removing them one by one. */
__device__ static void project(const struct update_args &a, struct update_memory &s, int rows)
{
    for (int first = 0; first < rows; first += AT_ONCE) {
        int count = min(AT_ONCE, rows - first);
        const float *removed = a.removed + first * a.dim;
        __syncthreads(); // the gradient is complete, and the factors may be overwritten
        multiply(a, s.factors, removed, count);
        __syncthreads();
        add_rows(a.gradient, a.dim, s.factors, removed, count, -1);
    }
}

__device__ static double adam(const struct update_args &a, double gradient, int64_t k)
{
    return (double)step_adam(&a.adam, (float)a.rates[1], (float)a.rates[2], gradient, a.m + k, a.v + k);
}

__device__ static void update_coordinates(const struct update_args &a, struct update_memory &s, int removed)
{
    estimate(a, s, a.coordinates, a.rank);
    __syncthreads();
    clear(a.gradient, a.dim);
    add_rows(a.gradient, a.dim, a.coordinates, a.basis, a.rank, 1);
    if (removed > 0) {
        project(a, s, removed);
        __syncthreads();
        multiply(a, a.coordinates, a.basis, a.rank);
    }
    __syncthreads();
    for (int64_t r = threadIdx.x; r < a.rank; r += UPDATE_THREADS)
        a.coordinates[r] = adam(a, a.coordinates[r], r);
    __syncthreads();
    for (int64_t k = threadIdx.x; k < a.dim; k += UPDATE_THREADS) {
        double step = 0;
        for (int64_t r = 0; r < a.rank; r++)
            step += a.coordinates[r] * (double)a.basis[r * a.dim + k];
        a.embedding[k] = (float)((double)a.embedding[k] + step);
    }
}

__global__ void __launch_bounds__(UPDATE_THREADS) update_kernel(const struct update_args a)
{
    struct update_memory &s = *(struct update_memory *)shared_memory;
    int removed = min(*a.removed_rows, a.most_rows);
    if (a.basis) {
        update_coordinates(a, s, removed);
        return;
    }
    estimate(a, s, a.gradient, a.dim);
    project(a, s, removed);
    for (int64_t k = threadIdx.x; k < a.dim; k += UPDATE_THREADS)
        a.embedding[k] += (float)adam(a, a.gradient[k], k);
}

void cuda_update(struct device *device, const struct update *u)
{
    struct update_args a = {};
    a.embedding = (float *)tensor_data(u->embedding);
    a.m = (float *)tensor_data(u->m);
    a.v = (float *)tensor_data(u->v);
    a.gradient = (double *)tensor_data(u->gradient);
    a.slots = (const double *)tensor_data(u->slots);
    a.rates = (const double *)tensor_data(u->rates);
    a.directions = (const float *)tensor_data(u->directions);
    a.removed = (const float *)tensor_data(u->removed);
    a.removed_rows = (const int32_t *)tensor_data(u->removed_rows);
    a.dim = u->embedding.lane_stride;
    if (u->basis.base) {
        a.basis = (const float *)tensor_data(u->basis);
        a.coordinates = (double *)tensor_data(u->coordinates);
        a.rank = u->basis.lanes;
    }
    a.rows = (int)u->directions.lanes;
    a.most_rows = (int)u->removed.lanes;
    a.layout = {u->n, u->batch, u->sides, u->eps, u->tangents};
    a.adam = {u->weight1, u->weight2, u->beta2, u->adam_eps};
    launch(device, "op_update", update_kernel, dim3(1), UPDATE_THREADS, sizeof(struct update_memory), a);
}
