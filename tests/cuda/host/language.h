/* tests/cuda/host/language.h
 *
 * CUDA C++'s language extensions in ordinary C++: what a kernel may use (kernels/cuda.h says how kernels are built),
 * each as the CUDA C++ Programming Guide describes it, chapter "C++ Language Extensions".
 *
 * A kernel runs one thread at a time, each on its own fiber (tests/cuda/block.h), so threadIdx and the like are plain
 * variables, set at each switch. Shared memory is one array; __shared__ expands to nothing. __CUDACC__ and
 * __CUDA_ARCH__ stay undefined: code shared with the host takes its host form.
 */
#ifndef ZOODIP_TESTS_CUDA_HOST_LANGUAGE_H
#define ZOODIP_TESTS_CUDA_HOST_LANGUAGE_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <initializer_list>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n)    __attribute__((aligned(n)))
#define __launch_bounds__(...)

/* -------------------------------------------------------------------------------- vector types */

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned width = 1, unsigned height = 1, unsigned depth = 1) : x(width), y(height), z(depth)
    {
    }
};

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};

static inline float2 make_float2(float x, float y)
{
    return {x, y};
}

static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

static inline int2 make_int2(int x, int y)
{
    return {x, y};
}

static inline int4 make_int4(int x, int y, int z, int w)
{
    return {x, y, z, w};
}

static inline uint2 make_uint2(unsigned x, unsigned y)
{
    return {x, y};
}

static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}

static inline double2 make_double2(double x, double y)
{
    return {x, y};
}

/* -------------------------------------------------------------------------------- where a thread is */

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

enum { warpSize = 32 };

/* -------------------------------------------------------------------------------- meeting others */

/* "Synchronization Functions": all threads of the block must arrive, or it is an error. */
void __syncthreads();

/* "Memory Fence Functions". Followed by an atomic, it publishes what the thread's block has written. */
void __threadfence();

/* All lanes of the warp take part with one word each; each gets its answer. `mask` must be the whole warp. */
void __syncwarp(unsigned mask = 0xffffffffu);
uint64_t standin_shuffle_xor(unsigned mask, uint64_t word, int lanes);
uint64_t standin_shuffle_down(unsigned mask, uint64_t word, int lanes);
uint64_t standin_shuffle_from(unsigned mask, uint64_t word, int lane);
unsigned __ballot_sync(unsigned mask, int vote);
int __any_sync(unsigned mask, int vote);
int __all_sync(unsigned mask, int vote);

template <class T> static inline uint64_t standin_word(T value)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles carry 4 or 8 bytes");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof(T));
    return word;
}

template <class T> static inline T standin_value(uint64_t word)
{
    T value;
    memcpy(&value, &word, sizeof(T));
    return value;
}

template <class T> static inline T __shfl_xor_sync(unsigned mask, T value, int lanes)
{
    return standin_value<T>(standin_shuffle_xor(mask, standin_word(value), lanes));
}

template <class T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned lanes)
{
    return standin_value<T>(standin_shuffle_down(mask, standin_word(value), (int)lanes));
}

template <class T> static inline T __shfl_sync(unsigned mask, T value, int lane)
{
    return standin_value<T>(standin_shuffle_from(mask, standin_word(value), lane));
}

/* -------------------------------------------------------------------------------- atomics, loads */

/* Each returns the previous value. */
int atomicCAS(int *at, int expected, int value);
unsigned atomicCAS(unsigned *at, unsigned expected, unsigned value);
int atomicAdd(int *at, int value);
unsigned atomicAdd(unsigned *at, unsigned value);

template <class T> static inline T __ldg(const T *at)
{
    return *at;
}

template <class T> static inline T __ldcg(const T *at)
{
    return *at;
}

/* -------------------------------------------------------------------------------- arithmetic */

// macros, since the C library declares functions of these names
#define __expf expf
#define __logf logf

static inline float rsqrtf(float x)
{
    return 1 / sqrtf(x);
}

static inline double rsqrt(double x)
{
    return 1 / sqrt(x);
}

static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}

static inline float __fdividef(float x, float y)
{
    return x / y;
}

static inline float __fmul_rn(float x, float y)
{
    return x * y;
}

static inline float __fadd_rn(float x, float y)
{
    return x + y;
}

static inline unsigned __float_as_uint(float x)
{
    return (unsigned)standin_word(x);
}

static inline int __float_as_int(float x)
{
    return (int)standin_word(x);
}

static inline float __uint_as_float(unsigned x)
{
    return standin_value<float>(x);
}

static inline float __int_as_float(int x)
{
    return standin_value<float>((unsigned)x);
}

/* Four bytes out of the eight of y:x; the low three bits of each nibble of `selector` say which. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    uint64_t both = (uint64_t)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++)
        out |= (unsigned)(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return out;
}

template <class T> static inline constexpr T standin_min(T x, T y)
{
    return y < x ? y : x;
}

template <class T> static inline constexpr T standin_max(T x, T y)
{
    return x < y ? y : x;
}

static inline constexpr int min(int x, int y)
{
    return standin_min(x, y);
}

static inline constexpr unsigned min(unsigned x, unsigned y)
{
    return standin_min(x, y);
}

static inline constexpr long min(long x, long y)
{
    return standin_min(x, y);
}

static inline constexpr long long min(long long x, long long y)
{
    return standin_min(x, y);
}

static inline float min(float x, float y)
{
    return fminf(x, y);
}

static inline double min(double x, double y)
{
    return fmin(x, y);
}

static inline constexpr int max(int x, int y)
{
    return standin_max(x, y);
}

static inline constexpr unsigned max(unsigned x, unsigned y)
{
    return standin_max(x, y);
}

static inline constexpr long max(long x, long y)
{
    return standin_max(x, y);
}

static inline constexpr long long max(long long x, long long y)
{
    return standin_max(x, y);
}

static inline float max(float x, float y)
{
    return fmaxf(x, y);
}

static inline double max(double x, double y)
{
    return fmax(x, y);
}

#endif
