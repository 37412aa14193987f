/* kernels/cuda.h
 *
 * What the files of the CUDA device share: the device itself, how a kernel is launched, and how a kernel sees tensors.
 *
 * A kernel takes ONE argument, a struct by value, and uses no shared memory but `extern __shared__ ...
 * shared_memory[]`, laid out as a struct whose size its launcher passes. So a launch is one line, and the same source
 * compiles for the host, where the tests run it (tests/cuda/).
 *
 * Lanes (device/device.h): what a kernel writes for a lane depends neither on how many lanes there are nor on its place
 * among them. Lanes are rows or a grid dimension; the order of every sum follows from one lane's shape.
 */
#ifndef ZOODIP_KERNELS_CUDA_H
#define ZOODIP_KERNELS_CUDA_H

extern "C" {
#include "device/backend.h"
}
#include "kernels/ptx.h"

struct link;   /* nccl.cu */
struct pieces; /* program.cu */

struct cuda {
    struct device device; /* must be first: src/device/ knows only this */
    int index;            /* of the GPU among those visible */
    int capability;       /* 90 for compute capability 9.0 */
    int processors;       /* streaming multiprocessors */
    enum operand operand;
    cudaStream_t stream;
    struct bad_content *bad_content; /* on the GPU; device_wait reads it */
    float4 *moments;                 /* [MOMENTS] on the GPU: scratch of norm.cu, between its two kernels */
    float4 *parts;                   /* [GPU_PARTS bytes] and [GPU_TILES]: scratch of kernels/parts.h */
    unsigned *arrived;
    struct link *link;        /* to the other ranks' GPUs; NULL: not joined */
    struct pieces *recording; /* of the program that is being captured; NULL: none */
    bool pending;             /* a collective was enqueued: wait for the stream only with nccl_wait */
};

enum { MOMENTS = GPU_MOMENTS }; /* 64 chunks of 32 groups for 32 lanes: 1 MiB */

/* What is wrong with a tensor's contents, which only kernels can see: an id, a lane or a step's choice that does not
 * exist. */
enum content_error { CONTENT_OK, BAD_ID, BAD_LANE, BAD_PRIMAL, BAD_CHOICE };

/* The first that a kernel found. */
struct bad_content {
    int error; /* enum content_error */
    int value;
};

__device__ static inline void report_content(struct bad_content *c, enum content_error error, int value)
{
    if (atomicCAS(&c->error, CONTENT_OK, (int)error) == CONTENT_OK)
        c->value = value;
}

static inline struct cuda *cuda_of(struct device *device)
{
    return (struct cuda *)device;
}

/* Shared memory that a block may have. */
static inline size_t shared_room(const struct device *device)
{
    int capability = ((const struct cuda *)device)->capability;
    return (size_t)(capability < 80                         ? 64
                    : capability == 80                      ? 163
                    : capability == 90 || capability == 100 ? 227
                                                            : 99)
           << 10;
}

/* Turns a call's result into an error that names the call; ok for cudaSuccess. */
struct error cuda_error(cudaError_t code, const char *call);

/* Enqueues kernel(args) on the device's stream; a failed launch becomes the device's error. `name` is for that
 * message. */
template <class Args>
static void launch(struct device *device, const char *name, void (*kernel)(Args), dim3 grid, unsigned threads,
                   size_t shared, const Args &args)
{
    enum { UNREQUESTED = 48 << 10 };
    void *list[] = {(void *)&args};
    cudaError_t code = cudaSuccess;
    if (shared > UNREQUESTED)
        code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (code == cudaSuccess)
        code = cudaLaunchKernel(kernel, grid, dim3(threads), list, shared, cuda_of(device)->stream);
    if (code != cudaSuccess)
        device_fail(device, cuda_error(code, name));
}

/* A block's shared memory: as many bytes as its launch asked for. */
extern __shared__ __align__(16) unsigned char shared_memory[];

/* A tensor as a kernel sees it. Strides count numbers. */
template <class T> struct view {
    T *data;
    int64_t lane_stride, row_stride;
    int lanes, positions, channels; /* positions: height x width */
};

template <class T> static inline struct view<T> view_of(struct tensor t) {
    struct view<T> v {
    };
    int64_t positions = t.height * t.width;
    if (t.base)
        v = {(T *)tensor_data(t), t.lane_stride, t.row_stride, (int)t.lanes, (int)positions, (int)t.channels};
    return v;
}

/* The channels of one position. */
template <class T>
__device__ static inline T *row_of(const struct view<T> &v, int lane, int position)
{
    return v.data + lane * v.lane_stride + position * v.row_stride;
}

/* Lane that lane `lane` reads of a mapped tensor (device.h, op_copy). */
__device__ static inline int mapped_lane(const struct view<int32_t> &map, int lane)
{
    return map.data ? map.data[lane] : lane;
}

/* Acts. Their sums are never fused with what expf and erff end with, so that every kernel rounds alike. */
__device__ static inline float gelu(float x)
{
    return 0.5f * x * __fadd_rn(1.0f, erff(x * 0.70710678f));
}

__device__ static inline float activated(float x, enum act act)
{
    switch (act) {
    case ACT_SILU:
        return x / __fadd_rn(1.0f, expf(-x));
    case ACT_GELU:
        return gelu(x);
    case ACT_QUICK_GELU:
        return x / __fadd_rn(1.0f, expf(-1.702f * x));
    default:
        return x;
    }
}

/* The derivative of x / (1 + exp(-b x)): s (1 + u (1 - s)), u = b x, s = logistic(u); 1 - s keeps its digits as
 * logistic(-u). */
__device__ static inline float swish_slope(float x, float b)
{
    float u = b * x, s = 1.0f / __fadd_rn(1.0f, expf(-u)), rest = 1.0f / __fadd_rn(1.0f, expf(u));
    return s * fmaf(u, rest, 1.0f);
}

/* activated's derivative. */
__device__ static inline float act_slope(float x, enum act act)
{
    switch (act) {
    case ACT_SILU:
        return swish_slope(x, 1.0f);
    case ACT_GELU: // Phi(x) + x phi(x)
        return fmaf(x * 0.39894228f, expf(-0.5f * x * x), 0.5f * erfcf(-0.70710678f * x));
    case ACT_QUICK_GELU:
        return swish_slope(x, 1.702f);
    default:
        return 1.0f;
    }
}

/* Sums a warp's numbers, in a tree whose form never changes; all lanes get the sum. */
template <class T> __device__ static inline T sum_over_warp(T x)
{
    for (int lanes = 16; lanes > 0; lanes /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, lanes);
    return x;
}

/* n / by without a division, for 0 <= n < 2^32 / by. by = 1 divides nothing. */
struct divisor {
    int by;
    uint32_t magic; /* 2^32 / by, rounded up past it */
};

static inline struct divisor divisor_of(int by)
{
    return {by, (uint32_t)(0x100000000u / (uint32_t)by + 1)};
}

__device__ static inline int divide(int n, struct divisor d)
{
    return (int)((uint64_t)(uint32_t)n * d.magic >> 32);
}

static inline int64_t blocks_for(int64_t items, int64_t each)
{
    return (items + each - 1) / each;
}

/* The ops: product.cu, attention.cu, norm.cu, pointwise.cu, step.cu. */
linear_op cuda_linear;
conv_op cuda_conv;
channel_rms cuda_channel_rms; /* outliers.cu */
norm_op cuda_norm;
attention_op cuda_attention;
copy_op cuda_copy;
embed_op cuda_embed;
timestep_op cuda_timestep;
loss_op cuda_loss;
draw_op cuda_draw;
add_noise_op cuda_add_noise;
perturb_op cuda_perturb;
mix_op cuda_mix;
update_op cuda_update;

/* What ranks do together with `count` numbers or bytes on the GPU: the sum over ranks of doubles, or rank `root`'s bytes
 * for all. */
struct collective {
    void *at;
    size_t count;
    bool sum;
    int root;
};

/* program.cu. A collective is enqueued, or, where a program is being captured, put between two of its graphs. */
struct error cuda_run(struct program *program);
void cuda_free_compiled(struct program *program);
void cuda_collect(struct device *device, const struct collective *what);

/* nccl.cu. nccl_offer fills in join, sum and broadcast, in a build with NCCL. nccl_collect enqueues a collective.
 * nccl_wait waits, within the limit, for a stream with a pending one; it returns at once if there is none. nccl_alive: is
 * the link still intact? Call nccl_leave before the stream is destroyed. */
void nccl_offer(struct device_ops *ops);
struct error nccl_collect(struct device *device, const struct collective *what);
struct error nccl_wait(struct device *device);
struct error nccl_alive(struct device *device);
void nccl_leave(struct device *device);
const char *nccl_version(void); /* or "not built in" */

#endif
