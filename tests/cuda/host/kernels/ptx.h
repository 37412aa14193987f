/* tests/cuda/host/kernels/ptx.h
 *
 * The host twin of kernels/ptx.h, found before it when kernels are compiled for the tests: the same functions, in C++.
 * Fragments, alignment and participating threads are as in the real header, and are checked. It is stricter than
 * hardware where hardware has a choice: an asynchronous copy completes at its copy_wait and not before. An mma adds as
 * the hardware does (units.h).
 */
#ifndef ZOODIP_KERNELS_PTX_H
#define ZOODIP_KERNELS_PTX_H

#include <cuda_runtime.h>
#include <stdint.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

enum operand { HALF, BFLOAT };

/* -------------------------------------------------------------------------------- copies */

void standin_copy_async(void *shared, const void *global, int bytes, bool inside);
void standin_copy_commit();
void standin_copy_wait(int pending);

template <int BYTES> static inline void copy_async(void *shared, const void *global, bool inside)
{
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    standin_copy_async(shared, global, BYTES, inside);
}

static inline void copy_commit()
{
    standin_copy_commit();
}

template <int PENDING> static inline void copy_wait()
{
    standin_copy_wait(PENDING);
}

/* -------------------------------------------------------------------------------- fragments */

void standin_load_matrices(uint32_t out[4], const void *row, bool transposed);
void standin_mma(bool half, int tiles, float *acc, const uint32_t a[4], const uint32_t *b);

static inline void load_matrices(uint32_t (&out)[4], const void *row)
{
    standin_load_matrices(out, row, false);
}

static inline void load_matrices_transposed(uint32_t (&out)[4], const void *row)
{
    standin_load_matrices(out, row, true);
}

template <enum operand O, int N>
static inline void mma_tile(float (&acc)[N][4], const uint32_t (&a)[4], const uint32_t (&b)[N][2])
{
    standin_mma(O == HALF, N, &acc[0][0], a, &b[0][0]);
}

void standin_mma_codes(int tiles, int *acc, const uint32_t a[4], const uint32_t *b);

template <int N> static inline void mma_codes(int (&acc)[N][4], const uint32_t (&a)[4], const uint32_t (&b)[N][2])
{
    standin_mma_codes(N, &acc[0][0], a, &b[0][0]);
}

/* -------------------------------------------------------------------------------- conversions */

static inline uint32_t standin_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float standin_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* Nearest, ties to even; to infinity from 65520 on. */
static inline uint32_t half_of(float x)
{
#ifdef __F16C__
    return (uint16_t)_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
    uint32_t bits = standin_bits(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u)
        return sign | 0x7e00u;
    if (rest >= 0x477ff000u)
        return sign | 0x7c00u;
    if (rest < 0x38800000u) // below the normal halves: the float adder rounds at 2^-24
        return sign | (standin_bits(standin_float(rest) + 0.5f) - 0x3f000000u);
    return sign | (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13;
#endif
}

static inline float float_of_half(uint32_t h)
{
#ifdef __F16C__
    return _cvtsh_ss((unsigned short)h);
#else
    uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ffu;
    if (exponent == 0)
        return standin_float(sign | standin_bits((float)fraction * 0x1p-24f));
    return standin_float(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13);
#endif
}

/* The upper half of a float, nearest, ties to even. */
static inline uint32_t bfloat_of(float x)
{
    uint32_t bits = standin_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 0x7fffu;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

template <enum operand O> static inline uint32_t pack_two(float x, float y)
{
    return O == HALF ? half_of(x) | half_of(y) << 16 : bfloat_of(x) | bfloat_of(y) << 16;
}

template <enum operand O> static inline float2 unpack_two(uint32_t bits)
{
    if (O == HALF)
        return make_float2(float_of_half(bits & 0xffffu), float_of_half(bits >> 16));
    return make_float2(standin_float(bits << 16), standin_float(bits & 0xffff0000u));
}

template <enum operand O> static inline void split_two(float x, float y, uint32_t *hi, uint32_t *lo)
{
    *hi = pack_two<O>(x, y);
    float2 rounded = unpack_two<O>(*hi);
    *lo = pack_two<O>(x - rounded.x, y - rounded.y);
}

template <enum operand O> static inline void widen_codes(uint32_t codes, uint32_t (&out)[2])
{
    for (int i = 0; i < 2; i++)
        out[i] = pack_two<O>((float)(int8_t)(codes >> 16 * i), (float)(int8_t)(codes >> (16 * i + 8)));
}

template <enum operand O>
static inline uint32_t widen_nibbles(uint32_t codes, int byte, uint32_t first, uint32_t second)
{
    float2 low = unpack_two<HALF>(first), high = unpack_two<HALF>(second);
    int code = (int)(codes >> (8 * byte)) & 255;
    return pack_two<O>(fmaf((float)((code & 15) - 8), low.x, low.y), fmaf((float)((code >> 4) - 8), high.x, high.y));
}

#endif
