// selftest CASE: tests the stand-in itself. Each case is a small program that is right, or wrong in one way that the
// stand-in has to notice; tests/test_cuda_standin.py says what each must do. Exit status: 0 where all calls
// succeeded and numbers were as expected, 1 where a number was wrong, 3 where a call failed (its name is printed).
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/ptx.h"
#include "selftest.h"

/* -------------------------------------------------------------------------------- kernels that are right */

struct numbers {
    int *out, *in;
    int count;
};

// Reverses a block's numbers through shared memory.
static __global__ void reverse(const struct numbers a)
{
    extern __shared__ __align__(16) unsigned char shared_memory[];
    int *row = (int *)shared_memory, at = (int)threadIdx.x, n = (int)blockDim.x;
    row[at] = a.in[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    a.out[(int)blockIdx.x * n + at] = row[n - 1 - at];
}

// Sums over the lanes in three ways, which must agree.
static __global__ void sum_lanes(const struct numbers a)
{
    int lane = (int)threadIdx.x % 32, x = lane * lane, y = x, z = 0;
    double d = x;
    for (int far = 16; far > 0; far /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, far);
        y += __shfl_down_sync(0xffffffffu, y, (unsigned)far);
        d += __shfl_xor_sync(0xffffffffu, d, far);
    }
    y = __shfl_sync(0xffffffffu, y, 0);
    for (int i = 0; i < 32; i++)
        z += __shfl_sync(0xffffffffu, lane * lane, i);
    bool same = x == y && y == z && d == z;
    if (__all_sync(0xffffffffu, same) && __ballot_sync(0xffffffffu, lane < 5) == 31u && !__any_sync(0xffffffffu, x < 0))
        a.out[threadIdx.x] = x;
}

// The last block to arrive adds up what the others left, after a fence.
static __global__ void last_block(const struct numbers a)
{
    a.out[1 + blockIdx.x] = (int)blockIdx.x + 1;
    __threadfence();
    if (atomicAdd(&a.out[0], 1) == (int)gridDim.x - 1) {
        int sum = 0;
        for (unsigned i = 0; i < gridDim.x; i++)
            sum += a.out[1 + i];
        a.in[0] = sum;
    }
}

struct product {
    float *y;
    const float *x, *w;
    int depth;
};

// y [16, 8 N] = x [16, depth] times the transpose of w [8 N, depth], rows staged as 16-bit numbers.
template <enum operand O, int N> static __global__ void multiply(const struct product a)
{
    extern __shared__ __align__(16) unsigned char shared_memory[];
    uint32_t *left = (uint32_t *)shared_memory, *right = left + 16 * 8;
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    float acc[N][4] = {};
    for (int k = 0; k < a.depth; k += 16) {
        for (int i = lane; i < 16 * 8; i += 32)
            left[i] = pack_two<O>(a.x[i / 8 * a.depth + k + i % 8 * 2], a.x[i / 8 * a.depth + k + i % 8 * 2 + 1]);
        for (int i = lane; i < N * 8 * 8; i += 32)
            right[i] = pack_two<O>(a.w[i / 8 * a.depth + k + i % 8 * 2], a.w[i / 8 * a.depth + k + i % 8 * 2 + 1]);
        __syncwarp();
        uint32_t x[4], w[N][2], four[4];
        load_matrices(x, &left[(lane % 16) * 8 + lane / 16 * 4]);
        for (int i = 0; i < N; i += 2) {
            load_matrices(four, &right[(i * 8 + lane / 16 * 8 + lane % 8) * 8 + lane / 8 % 2 * 4]);
            w[i][0] = four[0];
            w[i][1] = four[1];
            w[i + 1][0] = four[2];
            w[i + 1][1] = four[3];
        }
        mma_tile<O, N>(acc, x, w);
        __syncwarp();
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < 4; j++)
            a.y[(g + j / 2 * 8) * 8 * N + 8 * i + 2 * t + j % 2] = acc[i][j];
}

// Doubles numbers that arrive by asynchronous copies, with two groups in flight.
static __global__ void double_buffer(const struct numbers a)
{
    extern __shared__ __align__(16) unsigned char shared_memory[];
    int4 *stage = (int4 *)shared_memory, *in = (int4 *)a.in, *out = (int4 *)a.out;
    int at = (int)threadIdx.x, n = (int)blockDim.x, steps = a.count / 4 / n;
    copy_async<16>(&stage[at], &in[at], true);
    copy_commit();
    for (int s = 0; s < steps; s++) {
        if (s + 1 < steps)
            copy_async<16>(&stage[(s + 1) % 2 * n + at], &in[(s + 1) * n + at], s + 2 < steps);
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        int4 v = stage[s % 2 * n + (at + 1) % n];
        out[s * n + at] = make_int4(2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w);
        __syncthreads();
    }
}

/* -------------------------------------------------------------------------------- kernels that are wrong */

static __global__ void no_barrier(const struct numbers a)
{
    extern __shared__ __align__(16) unsigned char shared_memory[];
    int *row = (int *)shared_memory;
    row[threadIdx.x] = (int)threadIdx.x;
    a.out[threadIdx.x] = row[(threadIdx.x + 1) % blockDim.x];
}

static __global__ void no_barrier_before_reuse(const struct numbers a)
{
    extern __shared__ __align__(16) unsigned char shared_memory[];
    int *row = (int *)shared_memory;
    row[threadIdx.x] = 1;
    __syncthreads();
    a.out[threadIdx.x] = row[(threadIdx.x + 1) % blockDim.x];
    row[threadIdx.x] = 2;
}

// A shuffle synchronizes lanes, but promises nothing about memory.
static __global__ void shuffle_is_no_barrier(const struct numbers a)
{
    extern __shared__ __align__(16) unsigned char shared_memory[];
    int *row = (int *)shared_memory;
    row[threadIdx.x] = __shfl_sync(0xffffffffu, (int)threadIdx.x, 0);
    __shfl_sync(0xffffffffu, 0, 0);
    a.out[threadIdx.x] = row[(threadIdx.x + 1) % 32];
}

static __global__ void barrier_for_some(const struct numbers a)
{
    if (threadIdx.x < 32)
        __syncthreads();
    a.out[threadIdx.x] = 1;
}

static __global__ void barrier_after_end(const struct numbers a)
{
    if (threadIdx.x >= 40)
        return;
    __syncthreads();
    a.out[threadIdx.x] = 1;
}

static __global__ void lanes_part(const struct numbers a)
{
    if (threadIdx.x < 16)
        a.out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
    else
        __syncwarp();
}

static __global__ void unwritten(const struct numbers a)
{
    extern __shared__ __align__(16) unsigned char shared_memory[];
    a.out[threadIdx.x] = ((int *)shared_memory)[threadIdx.x];
}

static __global__ void behind_shared(const struct numbers a)
{
    extern __shared__ __align__(16) unsigned char shared_memory[];
    ((int *)shared_memory)[a.count + threadIdx.x] = 1;
}

static __global__ void behind_device(const struct numbers a)
{
    a.out[a.count + (int)threadIdx.x] = 1;
}

static __global__ void far_from_device(const struct numbers a)
{
    int *nowhere = a.out - a.count * 1024 * 1024;
    nowhere[threadIdx.x] = 1;
}

static __global__ void copy_not_waited_for(const struct numbers a)
{
    extern __shared__ __align__(16) unsigned char shared_memory[];
    int *row = (int *)shared_memory;
    copy_async<4>(&row[threadIdx.x], &a.in[threadIdx.x], true);
    copy_commit();
    copy_wait<1>();
    a.out[threadIdx.x] = row[threadIdx.x];
}

static __global__ void copy_crooked(const struct numbers a)
{
    extern __shared__ __align__(16) unsigned char shared_memory[];
    copy_async<16>(&((int *)shared_memory)[threadIdx.x], &a.in[4 * threadIdx.x], true);
}

static __global__ void copy_from_nowhere(const struct numbers a)
{
    extern __shared__ __align__(16) unsigned char shared_memory[];
    copy_async<4>(&((int *)shared_memory)[threadIdx.x], &a.in[a.count + (int)threadIdx.x], false);
}

static __global__ void blocks_write_one_word(const struct numbers a)
{
    a.out[threadIdx.x] = (int)blockIdx.x;
}

static __global__ void block_reads_another(const struct numbers a)
{
    a.out[blockIdx.x * blockDim.x + threadIdx.x] = 1;
    a.in[blockIdx.x * blockDim.x + threadIdx.x] = a.out[threadIdx.x];
}

static __global__ void threads_write_one_word(const struct numbers a)
{
    a.out[0] = (int)threadIdx.x;
}

static __global__ void set_number(const struct numbers a)
{
    a.out[threadIdx.x] = a.count;
}

static __global__ void add_number(const struct numbers a)
{
    a.out[threadIdx.x] += a.count;
}

/* -------------------------------------------------------------------------------- cases */

static void run_wrong(void (*kernel)(const struct numbers), dim3 grid, dim3 block, size_t shared)
{
    cudaStream_t stream = new_stream();
    int *out = on_device<int>(256), *in = on_device<int>(256);
    launch(kernel, grid, block, shared, {out, in, 256}, stream);
    cudaError_t code = cudaStreamSynchronize(stream);
    expect(code == cudaSuccess || cudaPeekAtLastError() == code, "an error that sticks");
    must(code, "cudaStreamSynchronize");
    int first;
    fetch(&first, out, 1, stream);
    expect(first != -1, "number from a copy that had landed");
}

static void case_kernels()
{
    cudaStream_t stream = new_stream();
    int *in = on_device<int>(512), *out = on_device<int>(512), numbers[512], answers[512];
    for (int i = 0; i < 512; i++)
        numbers[i] = i;
    send(in, numbers, 512, stream);
    launch(reverse, 2, 256, 1024, {out, in, 0}, stream);
    fetch(answers, out, 512, stream);
    expect(answers[0] == 255 && answers[255] == 0 && answers[256] == 511, "reverse");
    launch(sum_lanes, 1, 64, 0, {out, in, 0}, stream);
    fetch(answers, out, 64, stream);
    expect(answers[0] == 10416 && answers[63] == 10416, "sum_lanes");
    launch(double_buffer, 1, 32, 1024, {out, in, 512}, stream);
    fetch(answers, out, 512, stream);
    expect(answers[0] == 8 && answers[124] == 0 && answers[128] == 264 && answers[384] == 0, "double_buffer");
    must(cudaMemsetAsync(out, 0, 512, stream), "cudaMemsetAsync");
    launch(last_block, 10, 1, 0, {out, in, 0}, stream);
    fetch(answers, in, 1, stream);
    expect(answers[0] == 55, "last_block");
    must(cudaFree(in), "cudaFree");
    must(cudaFree(out), "cudaFree");
    must(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

// Compares with sums in double of the rounded factors: 11 bits for HALF, 8 for BFLOAT.
template <enum operand O> static void check_product(double tolerance)
{
    enum { DEPTH = 48, N = 4 };
    cudaStream_t stream = new_stream();
    float x[16 * DEPTH], w[8 * N * DEPTH], y[16 * 8 * N];
    for (int i = 0; i < 16 * DEPTH; i++)
        x[i] = (float)(i * 37 % 101 - 50) / 64;
    for (int i = 0; i < 8 * N * DEPTH; i++)
        w[i] = (float)(i * 53 % 97 - 48) / 1e5f; // below the smallest normal half, some of them
    float *dx = on_device<float>(16 * DEPTH), *dw = on_device<float>(8 * N * DEPTH), *dy = on_device<float>(16 * 8 * N);
    send(dx, x, 16 * DEPTH, stream);
    send(dw, w, 8 * N * DEPTH, stream);
    launch(multiply<O, N>, 1, 32, (16 + 8 * N) * 32, {dy, dx, dw, DEPTH}, stream);
    fetch(y, dy, 16 * 8 * N, stream);
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8 * N; column++) {
            double sum = 0;
            for (int k = 0; k < DEPTH; k++)
                sum += (double)x[row * DEPTH + k] * w[column * DEPTH + k];
            expect(fabs(sum - y[row * 8 * N + column]) < tolerance, "product");
        }
    must(cudaFree(dx), "cudaFree");
    must(cudaFree(dw), "cudaFree");
    must(cudaFree(dy), "cudaFree");
    must(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

static void case_product()
{
    check_product<HALF>(1e-6);
    check_product<BFLOAT>(1e-5);
    float values[] = {1.0f, -2.5f, 65504, 65520, 1e-7f, 6.1e-5f, 2049, 2051, 0.33325195f, -0.0f};
    uint32_t halves[] = {0x3c00, 0xc100, 0x7bff, 0x7c00, 0x0002, 0x03ff, 0x6800, 0x6802, 0x3555, 0x8000};
    for (int i = 0; i < 10; i++)
        expect(pack_two<HALF>(values[i], 0) == halves[i], "pack_two");
    uint32_t hi, lo, codes[2];
    split_two<HALF>(1.2345678f, -3e-3f, &hi, &lo);
    expect(fabsf(unpack_two<HALF>(hi).x + unpack_two<HALF>(lo).x - 1.2345678f) < 1e-6f, "split_two");
    widen_codes<HALF>(0x80ff017fu, codes);
    float2 low = unpack_two<HALF>(codes[0]), high = unpack_two<HALF>(codes[1]);
    expect(low.x == 127 && low.y == 1 && high.x == -1 && high.y == -128, "widen_codes");
}

static void case_capture()
{
    cudaStream_t stream = new_stream();
    int *out = on_device<int>(32), answers[32];
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaMemsetAsync(out, 0, 128, stream), "cudaMemsetAsync");
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    struct numbers args = {out, NULL, 3};
    launch(add_number, 1, 32, 0, args, stream);
    args.count = 100; // the capture keeps 3
    must(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    fetch(answers, out, 32, stream);
    expect(answers[0] == 0, "a capture that does not run");
    must(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
    must(cudaGraphDestroy(graph), "cudaGraphDestroy");
    for (int i = 0; i < 4; i++)
        must(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
    fetch(answers, out, 32, stream);
    expect(answers[31] == 12, "four replays");
    must(cudaGraphExecDestroy(exec), "cudaGraphExecDestroy");
    must(cudaFree(out), "cudaFree");
    must(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

static void begin_capture(cudaStream_t stream)
{
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
}

static void expect_spoiled(cudaStream_t stream, cudaError_t code)
{
    expect(code == cudaErrorStreamCaptureUnsupported || code == cudaErrorStreamCaptureImplicit, "a refusal");
    cudaGraph_t graph;
    expect(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated && !graph, "a spoiled capture");
}

static void case_capture_misuse()
{
    cudaStream_t stream = new_stream();
    int *out = on_device<int>(32), host[32], *more;
    begin_capture(stream);
    expect_spoiled(stream, cudaStreamSynchronize(stream));
    begin_capture(stream);
    expect_spoiled(stream, cudaMalloc(&more, 4));
    begin_capture(stream);
    expect_spoiled(stream, cudaFree(out));
    begin_capture(stream);
    expect_spoiled(stream, cudaMemsetAsync(out, 0, 4, NULL));
    begin_capture(stream);
    expect_spoiled(stream, cudaMemcpyAsync(host, out, 4, cudaMemcpyDeviceToHost, stream)); // pageable
    cudaGraph_t graph;
    expect(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureUnmatched, "an end without a beginning");
    expect(cudaGetLastError() == cudaErrorStreamCaptureUnmatched && cudaGetLastError() == cudaSuccess,
           "the last error");
}

static void case_copies()
{
    cudaStream_t stream = new_stream();
    int *out = on_device<int>(4), *kept = pinned<int>(4), host[4] = {1, 2, 3, 4}, answers[4];
    send(out, host, 4, stream);
    host[0] = 9; // pageable: read at the call
    fetch(answers, out, 4, stream);
    expect(answers[0] == 1, "a pageable buffer may change after the call");
    kept[0] = 5;
    send(out, kept, 1, stream);
    kept[0] = 6; // page-locked: read when it runs
    fetch(answers, out, 1, stream);
    expect(answers[0] == 6, "a page-locked buffer is read late");
    expect(cudaMemcpyAsync(out, host, 20, cudaMemcpyHostToDevice, stream) == cudaErrorInvalidValue, "too long a copy");
    expect(cudaMemcpyAsync(out, host, 4, cudaMemcpyDeviceToHost, stream) == cudaErrorInvalidValue, "the wrong way");
    expect(cudaMemcpy2DAsync(out, 4, host, 4, 8, 1, cudaMemcpyHostToDevice, stream) == cudaErrorInvalidPitchValue,
           "pitch");
    must(cudaMemcpy2DAsync(out, 8, host, 4, 4, 2, cudaMemcpyHostToDevice, stream), "cudaMemcpy2DAsync");
    fetch(answers, out, 4, stream);
    expect(answers[0] == 9 && answers[2] == 2 && answers[3] == 4, "rows with a pitch");
    must(cudaFree(out), "cudaFree");
    expect(cudaFree(out) == cudaErrorInvalidValue && cudaFree(NULL) == cudaSuccess, "freed twice");
    must(cudaFreeHost(kept), "cudaFreeHost");
    must(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

static void case_pinned_freed_early()
{
    cudaStream_t stream = new_stream();
    int *out = on_device<int>(4), *kept = pinned<int>(4);
    send(out, kept, 4, stream);
    must(cudaFreeHost(kept), "cudaFreeHost");
    wait(stream);
}

static void case_freed_early()
{
    cudaStream_t stream = new_stream();
    int *out = on_device<int>(4);
    must(cudaMemsetAsync(out, 0, 16, stream), "cudaMemsetAsync");
    must(cudaFree(out), "cudaFree");
    wait(stream);
}

static void case_leak()
{
    on_device<int>(100);
    pinned<int>(10);
    new_stream();
}

static void case_limits()
{
    cudaStream_t stream = new_stream();
    int *out = on_device<int>(1024);
    struct numbers args = {out, NULL, 1};
    void *list[] = {&args};
    expect(cudaLaunchKernel(set_number, dim3(0), dim3(32), list, 0, stream) == cudaErrorInvalidConfiguration,
           "no block");
    expect(cudaLaunchKernel(set_number, dim3(1), dim3(1025), list, 0, stream) == cudaErrorInvalidConfiguration,
           "threads");
    expect(cudaLaunchKernel(set_number, dim3(1, 65536), dim3(32), list, 0, stream) == cudaErrorInvalidConfiguration,
           "y");
    expect(cudaLaunchKernel(set_number, dim3(1), dim3(32), list, 49153, stream) == cudaErrorInvalidValue, "shared");
    must(cudaFuncSetAttribute(set_number, cudaFuncAttributeMaxDynamicSharedMemorySize, 99 << 10),
         "cudaFuncSetAttribute");
    must(cudaLaunchKernel(set_number, dim3(1), dim3(1024), list, 99 << 10, stream), "cudaLaunchKernel");
    cudaError_t most = cudaFuncSetAttribute(set_number, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10);
    printf("%s\n", cudaGetErrorName(most));
    wait(stream);
    size_t room, memory;
    void *much;
    must(cudaMemGetInfo(&room, &memory), "cudaMemGetInfo");
    printf("%zu\n", memory);
    expect(cudaMalloc(&much, room + 1) == cudaErrorMemoryAllocation, "more than there is room for");
    if (memory <= (size_t)1 << 30) // what is handed out is filled
        must(cudaMalloc(&much, room), "cudaMalloc");
}

static void case_device()
{
    int count = 0, driver, value;
    must(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    must(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    cudaDeviceProp prop;
    must(cudaGetDeviceProperties(&prop, count - 1), "cudaGetDeviceProperties");
    must(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
    expect(cudaSetDevice(count) == cudaErrorInvalidDevice && value == prop.major, "a device that does not exist");
    printf("%d %d %s\n", driver, count, prop.name);
}

static void case_events()
{
    cudaStream_t stream = new_stream();
    cudaEvent_t from, to;
    float milliseconds;
    int *out = on_device<int>(32);
    must(cudaEventCreate(&from), "cudaEventCreate");
    must(cudaEventCreate(&to), "cudaEventCreate");
    expect(cudaEventElapsedTime(&milliseconds, from, to) == cudaErrorInvalidResourceHandle, "nothing recorded");
    must(cudaEventRecord(from, stream), "cudaEventRecord");
    for (int i = 0; i < 10; i++)
        launch(set_number, 1, 32, 0, {out, NULL, i}, stream);
    must(cudaEventRecord(to, stream), "cudaEventRecord");
    expect(cudaEventQuery(to) == cudaErrorNotReady, "an event that is still to come");
    int asked = 1;
    while (cudaEventQuery(to) == cudaErrorNotReady)
        asked++;
    must(cudaEventSynchronize(to), "cudaEventSynchronize");
    must(cudaEventElapsedTime(&milliseconds, from, to), "cudaEventElapsedTime");
    expect(milliseconds > 0 && asked == 11, "time and questions");
    must(cudaEventDestroy(from), "cudaEventDestroy");
    must(cudaEventDestroy(to), "cudaEventDestroy");
    must(cudaFree(out), "cudaFree");
    must(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

// Times the most frequent operations: a launch, a switch of threads, a warp's matrix product.
static double seconds()
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); // others may be using the cores
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static __global__ void many_barriers(const struct numbers a)
{
    for (int i = 0; i < a.count; i++)
        __syncthreads();
}

template <int N> static __global__ void many_products(const struct numbers a)
{
    float acc[N][4] = {};
    uint32_t x[4] = {0x3c003c00u, 0, 0, 0x3c003c00u}, w[N][2]; // ones: products with zeros are not computed
    for (int i = 0; i < N; i++)
        w[i][0] = w[i][1] = 0x3c003c00u;
    for (int i = 0; i < a.count; i++)
        mma_tile<HALF, N>(acc, x, w);
    a.out[threadIdx.x] = (int)acc[0][0];
}

static void case_speed()
{
    cudaStream_t stream = new_stream();
    int *out = on_device<int>(256);
    double start = seconds();
    for (int i = 0; i < 1000; i++)
        launch(set_number, 1, 32, 0, {out, NULL, i}, stream);
    wait(stream);
    printf("launch of 32 threads: %.2f us\n", 1e3 * (seconds() - start));
    start = seconds();
    launch(many_barriers, 1, 256, 0, {out, NULL, 4000}, stream);
    wait(stream);
    printf("switch: %.1f ns\n", 1e9 * (seconds() - start) / 256 / 4000);
    start = seconds();
    launch(many_products<8>, 1, 256, 0, {out, NULL, 1000}, stream);
    wait(stream);
    double each = (seconds() - start) / 8 / 1000;
    printf("mma_tile<8>: %.0f ns, %.1f GFLOP/s\n", 1e9 * each, 8 * 4096e-9 / each);
}

// Under mpirun: sums over ranks, in a graph and outside, and a broadcast. The id is passed through the named file.
static ncclUniqueId share_id(const char *path, int rank)
{
    ncclUniqueId id;
    if (rank == 0) {
        char temporary[300];
        snprintf(temporary, sizeof(temporary), "%s.tmp", path);
        must_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
        FILE *f = fopen(temporary, "wb");
        expect(f && fwrite(&id, sizeof(id), 1, f) == 1 && fclose(f) == 0 && rename(temporary, path) == 0,
               "the id's file");
        return id;
    }
    FILE *f = NULL;
    while (!(f = fopen(path, "rb")))
        usleep(1000);
    expect(fread(&id, sizeof(id), 1, f) == 1, "the id's file");
    fclose(f);
    return id;
}

static int environment_number(const char *name, int otherwise)
{
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

static void case_nccl(const char *path)
{
    enum { COUNT = 100000 };
    int rank = environment_number("OMPI_COMM_WORLD_RANK", 0), ranks = environment_number("OMPI_COMM_WORLD_SIZE", 1);
    int devices;
    must(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
    must(cudaSetDevice(rank % devices), "cudaSetDevice");
    cudaStream_t stream = new_stream();
    ncclComm_t comm;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    must_nccl(ncclCommInitRankConfig(&comm, ranks, share_id(path, rank), rank, &config), "ncclCommInitRankConfig");
    double *host = pinned<double>(COUNT), *sum = on_device<double>(COUNT);
    for (int i = 0; i < COUNT; i++)
        host[i] = rank == i % ranks ? i + 0.5 : 0;
    send(sum, host, COUNT, stream);
    begin_capture(stream);
    must_nccl(ncclAllReduce(sum, sum, COUNT, ncclFloat64, ncclSum, comm, stream), "ncclAllReduce");
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    must(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
    must(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
    fetch(host, sum, COUNT, stream);
    expect(host[0] == 0.5 && host[COUNT - 1] == COUNT - 0.5, "a sum over ranks");
    must(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
    host[0] = rank;
    fetch(host, sum, 1, stream);
    expect(host[0] == 0.5 * ranks, "the sum's replay");
    host[7] = rank;
    send(sum, host + 7, 1, stream);
    must_nccl(ncclBroadcast(sum, sum, 1, ncclFloat64, ranks - 1, comm, stream), "ncclBroadcast");
    fetch(host, sum, 1, stream);
    expect(host[0] == ranks - 1, "a broadcast");
    must(cudaGraphDestroy(graph), "cudaGraphDestroy");
    must(cudaGraphExecDestroy(exec), "cudaGraphExecDestroy");
    must_nccl(ncclCommFinalize(comm), "ncclCommFinalize");
    must_nccl(ncclCommDestroy(comm), "ncclCommDestroy");
    must(cudaFree(sum), "cudaFree");
    must(cudaFreeHost(host), "cudaFreeHost");
    must(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

// A communicator that does not block, of one rank: its collectives may not be captured, and nothing may be given to the
// stream before it says that it has posted one.
static void case_nccl_hasty(const char *path)
{
    cudaStream_t stream = new_stream();
    must(cudaSetDevice(0), "cudaSetDevice");
    ncclComm_t comm;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclResult_t state = ncclCommInitRankConfig(&comm, 1, share_id(path, 0), 0, &config);
    while (state == ncclInProgress)
        must_nccl(ncclCommGetAsyncError(comm, &state), "ncclCommGetAsyncError");
    double *sum = on_device<double>(1);
    auto add = [&]() { return ncclAllReduce(sum, sum, 1, ncclFloat64, ncclSum, comm, stream); };
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    expect(add() == ncclInvalidUsage, "a refusal in a capture");
    cudaGraph_t graph;
    must(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    for (state = add(); state == ncclInProgress;) {
        expect(add() == ncclInvalidUsage, "a refusal while it is in progress");
        must_nccl(ncclCommGetAsyncError(comm, &state), "ncclCommGetAsyncError");
    }
    wait(stream);
    expect(add() == ncclInProgress, "progress in the background");
    must(cudaMemsetAsync(sum, 0, 8, stream), "cudaMemsetAsync");
    wait(stream);
}

// Rank 1 dies silently; rank 0 notices by polling, aborts, and its stream is free again.
static void case_nccl_lost(const char *path)
{
    int rank = environment_number("OMPI_COMM_WORLD_RANK", 0);
    must(cudaSetDevice(rank), "cudaSetDevice");
    cudaStream_t stream = new_stream();
    ncclComm_t comm;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    must_nccl(ncclCommInitRankConfig(&comm, 2, share_id(path, rank), rank, &config), "ncclCommInitRankConfig");
    int *slot = on_device<int>(1);
    cudaEvent_t event;
    must(cudaEventCreate(&event), "cudaEventCreate");
    if (rank == 1) {
        must_nccl(ncclCommAbort(comm), "ncclCommAbort");
        return;
    }
    must_nccl(ncclAllReduce(slot, slot, 1, ncclInt32, ncclSum, comm, stream), "ncclAllReduce");
    must(cudaEventRecord(event, stream), "cudaEventRecord");
    ncclResult_t error = ncclSuccess;
    while (error == ncclSuccess) {
        expect(cudaEventQuery(event) == cudaErrorNotReady, "a collective that waits");
        must_nccl(ncclCommGetAsyncError(comm, &error), "ncclCommGetAsyncError");
    }
    printf("%s\n", ncclGetErrorString(error));
    must_nccl(ncclCommAbort(comm), "ncclCommAbort");
    wait(stream);
}

struct wrong {
    const char *name;
    void (*kernel)(const struct numbers);
    dim3 grid, block;
    size_t shared;
};

static const struct wrong wrongs[] = {
    {"no_barrier", no_barrier, 1, 64, 256},
    {"no_barrier_before_reuse", no_barrier_before_reuse, 1, 64, 256},
    {"shuffle_is_no_barrier", shuffle_is_no_barrier, 1, 32, 128},
    {"barrier_for_some", barrier_for_some, 1, 64, 0},
    {"barrier_after_end", barrier_after_end, 1, 64, 0},
    {"lanes_part", lanes_part, 1, 32, 0},
    {"unwritten", unwritten, 1, 32, 128},
    {"behind_shared", behind_shared, 1, 32, 1024},
    {"behind_device", behind_device, 1, 32, 0},
    {"far_from_device", far_from_device, 1, 32, 0},
    {"copy_not_waited_for", copy_not_waited_for, 1, 32, 128},
    {"copy_crooked", copy_crooked, 1, 32, 1024},
    {"copy_from_nowhere", copy_from_nowhere, 1, 32, 128},
    {"blocks_write_one_word", blocks_write_one_word, 2, 32, 0},
    {"block_reads_another", block_reads_another, 2, 32, 0},
    {"threads_write_one_word", threads_write_one_word, 1, 32, 0},
};

static const struct {
    const char *name;
    void (*run)();
} cases[] = {
    {"kernels", case_kernels},
    {"product", case_product},
    {"capture", case_capture},
    {"capture_misuse", case_capture_misuse},
    {"copies", case_copies},
    {"pinned_freed_early", case_pinned_freed_early},
    {"freed_early", case_freed_early},
    {"leak", case_leak},
    {"limits", case_limits},
    {"device", case_device},
    {"events", case_events},
    {"speed", case_speed},
    {"units", case_units},
};

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    for (auto &c : cases)
        if (strcmp(c.name, name) == 0)
            return c.run(), 0;
    for (const struct wrong &w : wrongs)
        if (strcmp(w.name, name) == 0)
            return run_wrong(w.kernel, w.grid, w.block, w.shared), 0;
    if (strcmp(name, "nccl") == 0 && argc == 3)
        return case_nccl(argv[2]), 0;
    if (strcmp(name, "nccl_hasty") == 0 && argc == 3)
        return case_nccl_hasty(argv[2]), 0;
    if (strcmp(name, "nccl_lost") == 0 && argc == 3)
        return case_nccl_lost(argv[2]), 0;
    fprintf(stderr, "usage: selftest CASE [FILE]\n");
    return 2;
}
