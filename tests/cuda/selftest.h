/* tests/cuda/selftest.h
 *
 * What the cases of the stand-in's own test use: calls that must succeed, and a few steps that every case takes.
 */
#ifndef ZOODIP_TESTS_CUDA_SELFTEST_H
#define ZOODIP_TESTS_CUDA_SELFTEST_H

#include <cuda_runtime.h>
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>

static inline void must(cudaError_t code, const char *call)
{
    if (code == cudaSuccess)
        return;
    printf("%s: %s\n", call, cudaGetErrorName(code));
    exit(3);
}

static inline void must_nccl(ncclResult_t result, const char *call)
{
    if (result == ncclSuccess)
        return;
    printf("%s: %s\n", call, ncclGetErrorString(result));
    exit(3);
}

static inline void expect(bool right, const char *what)
{
    if (right)
        return;
    printf("wrong: %s\n", what);
    exit(1);
}

static inline cudaStream_t new_stream()
{
    cudaStream_t stream;
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return stream;
}

static inline void wait(cudaStream_t stream)
{
    must(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

template <class T> static inline T *on_device(int count)
{
    T *memory;
    must(cudaMalloc(&memory, sizeof(T) * (size_t)count), "cudaMalloc");
    return memory;
}

template <class T> static inline T *pinned(int count)
{
    T *memory;
    must(cudaMallocHost(&memory, sizeof(T) * (size_t)count), "cudaMallocHost");
    return memory;
}

template <class Args>
static inline void launch(void (*kernel)(Args), dim3 grid, dim3 block, size_t shared, Args args, cudaStream_t stream)
{
    void *list[] = {&args};
    must(cudaLaunchKernel(kernel, grid, block, list, shared, stream), "cudaLaunchKernel");
}

template <class T> static inline void fetch(T *to, const T *from, int count, cudaStream_t stream)
{
    must(cudaMemcpyAsync(to, from, sizeof(T) * (size_t)count, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
    wait(stream);
}

template <class T> static inline void send(T *to, const T *from, int count, cudaStream_t stream)
{
    must(cudaMemcpyAsync(to, from, sizeof(T) * (size_t)count, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
}

/* selftest_units.cu: matrix products against a model of the units of this card. */
void case_units();

#endif
