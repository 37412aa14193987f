/* kernels/ptx.h
 *
 * Instructions that C++ cannot express: asynchronous copies into shared memory, ldmatrix, mma.sync, and the conversions
 * on the way into the matrix units. Every kernel uses these; no other file contains assembly.
 *
 * Precision. Activations are float in memory. The matrix units take 16-bit operands, and a zeroth-order slope is a
 * small difference of big numbers, so a float goes in as a PAIR: hi = round16(x), lo = round16(x - hi), two products
 * into one float accumulator. A single rounding changes (L_i - L_0) / eps by 26 to 59 % on toybox, the pair by 0.06 to
 * 0.13 %, as much as float does (results/README.md). Codes of 4 and 8 bits are exact as they are.
 *
 * Fragments are those of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"): with g = lane / 4, t = lane % 4,
 *
 *     a[0]: row g,     k 2t, 2t+1       b[0]: column g, k 2t, 2t+1        acc[0], acc[1]: row g,     columns 2t, 2t+1
 *     a[1]: row g + 8, k 2t, 2t+1       b[1]: column g, k 2t+8, 2t+9      acc[2], acc[3]: row g + 8, columns 2t, 2t+1
 *     a[2]: row g,     k 2t+8, 2t+9
 *     a[3]: row g + 8, k 2t+8, 2t+9
 *
 * Which k of memory is called k 2t.. is the caller's choice, as long as a and b agree.
 */
#ifndef ZOODIP_KERNELS_PTX_H
#define ZOODIP_KERNELS_PTX_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

/* Operands of the matrix units: IEEE half (11 bits, up to 65504) or bfloat16 (8 bits, float's range). */
enum operand { HALF, BFLOAT };

/* -------------------------------------------------------------------------------- copies */

__device__ static inline uint32_t shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* BYTES (4, 8 or 16, both addresses aligned to it) from global to shared memory, or zeros where not `inside` (`global`
 * must be a valid address even then). Complete at the latest when copy_wait says so; below sm_80 at once. */
template <int BYTES> __device__ static inline void copy_async(void *shared, const void *global, bool inside)
{
#if __CUDA_ARCH__ >= 800
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global),
                     "r"(inside ? 16 : 0)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared_address(shared)), "l"(global),
                     "n"(BYTES), "r"(inside ? BYTES : 0)
                     : "memory");
#else
    for (int i = 0; i < BYTES / 4; i++)
        ((uint32_t *)shared)[i] = inside ? ((const uint32_t *)global)[i] : 0u;
#endif
}

/* Closes the group of copies that this thread has started since the last call. */
__device__ static inline void copy_commit()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

/* Waits until at most PENDING of this thread's newest groups are unfinished. Other threads see the bytes after a
 * barrier. */
template <int PENDING> __device__ static inline void copy_wait()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory");
#endif
}

/* -------------------------------------------------------------------------------- fragments */

/* ldmatrix.x4: lane l gives the address of row l % 8 (16 bytes, aligned) of matrix l / 8, and gets bytes 4t..4t+3 of
 * row g of each of the four. Called by the whole warp. */
__device__ static inline void load_matrices(uint32_t (&out)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* The same, each matrix of 8 x 8 16-bit numbers transposed: lane gets numbers (row 2t, column g) and (2t + 1, g). */
__device__ static inline void load_matrices_transposed(uint32_t (&out)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* acc[i] += a b[i]: one 16 x 16 tile of the left factor, N 16 x 8 tiles of the right one. Called by the whole warp. */
template <enum operand O, int N>
__device__ static inline void mma_tile(float (&acc)[N][4], const uint32_t (&a)[4], const uint32_t (&b)[N][2])
{
#pragma unroll
    for (int i = 0; i < N; i++) {
#if __CUDA_ARCH__ >= 800
        if (O == HALF)
            asm volatile(
                "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                "{%0, %1, %2, %3};\n"
                : "+f"(acc[i][0]), "+f"(acc[i][1]), "+f"(acc[i][2]), "+f"(acc[i][3])
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[i][0]), "r"(b[i][1]));
        else
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                         "{%8, %9}, {%0, %1, %2, %3};\n"
                         : "+f"(acc[i][0]), "+f"(acc[i][1]), "+f"(acc[i][2]), "+f"(acc[i][3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[i][0]), "r"(b[i][1]));
#else
        // Turing has half the depth, and no bfloat (device.cu refuses it)
        for (int k = 0; k < 2; k++)
            asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                         "{%0, %1, %2, %3};\n"
                         : "+f"(acc[i][0]), "+f"(acc[i][1]), "+f"(acc[i][2]), "+f"(acc[i][3])
                         : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(b[i][k]));
#endif
    }
}

/* acc[i] += a b[i] of 8-bit codes, exactly: as mma_tile with 32 k, of which each word holds four:
 *
 *     a[0]: row g,     k 4t..4t+3       b[0]: column g, k 4t..4t+3
 *     a[1]: row g + 8, k 4t..4t+3       b[1]: column g, k 4t+16..4t+19
 *     a[2]: row g,     k 4t+16..4t+19
 *     a[3]: row g + 8, k 4t+16..4t+19
 */
template <int N>
__device__ static inline void mma_codes(int (&acc)[N][4], const uint32_t (&a)[4], const uint32_t (&b)[N][2])
{
#pragma unroll
    for (int i = 0; i < N; i++) {
#if __CUDA_ARCH__ >= 800
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};\n"
                     : "+r"(acc[i][0]), "+r"(acc[i][1]), "+r"(acc[i][2]), "+r"(acc[i][3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[i][0]), "r"(b[i][1]));
#else
        // Turing has half the depth and half the rows
        for (int k = 0; k < 2; k++)
            for (int half = 0; half < 2; half++)
                asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};\n"
                             : "+r"(acc[i][2 * half]), "+r"(acc[i][2 * half + 1])
                             : "r"(a[2 * k + half]), "r"(b[i][k]));
#endif
    }
}

/* -------------------------------------------------------------------------------- conversions */

/* Two floats rounded to 16 bits, x in the low half. */
template <enum operand O> __device__ static inline uint32_t pack_two(float x, float y)
{
    if (O == HALF) {
        __half2 both = __floats2half2_rn(x, y);
        return *(uint32_t *)&both;
    }
    __nv_bfloat162 both = __floats2bfloat162_rn(x, y);
    return *(uint32_t *)&both;
}

template <enum operand O> __device__ static inline float2 unpack_two(uint32_t bits)
{
    if (O == HALF)
        return __half22float2(*(__half2 *)&bits);
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}

/* Two floats as pairs: x = hi + lo to 22 bits (HALF) or 16 (BFLOAT). */
template <enum operand O> __device__ static inline void split_two(float x, float y, uint32_t *hi, uint32_t *lo)
{
    *hi = pack_two<O>(x, y);
    float2 rounded = unpack_two<O>(*hi);
    *lo = pack_two<O>(x - rounded.x, y - rounded.y);
}

/* Four signed 8-bit codes -> two words of two numbers each, exactly: bytes 0, 1 and bytes 2, 3. */
template <enum operand O> __device__ static inline void widen_codes(uint32_t codes, uint32_t (&out)[2])
{
    if (O == HALF) {
        // 0x6400 | u is the half 1024 + u; u = code + 128
        uint32_t u = codes ^ 0x80808080u, low = __byte_perm(u, 0x64646464u, 0x4140),
                 high = __byte_perm(u, 0x64646464u, 0x4342);
        uint32_t offset = 0x64806480u; // 1152
        *(__half2 *)&out[0] = __hsub2(*(__half2 *)&low, *(__half2 *)&offset);
        *(__half2 *)&out[1] = __hsub2(*(__half2 *)&high, *(__half2 *)&offset);
    } else {
        int32_t c = (int32_t)codes;
        out[0] = pack_two<BFLOAT>((float)(int8_t)c, (float)(int8_t)(c >> 8));
        out[1] = pack_two<BFLOAT>((float)(int8_t)(c >> 16), (float)(int8_t)(c >> 24));
    }
}

/* The two 4-bit codes of byte `byte`, each (code - 8) x scale + middle, rounded to the operand's type. `first`, `second`:
 * the scale of each in the low half, its middle in the high one, as halves. */
template <enum operand O>
__device__ static inline uint32_t widen_nibbles(uint32_t codes, int byte, uint32_t first, uint32_t second)
{
    if (O == HALF) {
        // 0x6400 | u is the half 1024 + u: here u is the low code, and 16 times the high one
        uint32_t u = __byte_perm(codes, 0x64646464u, 0x4040u + 0x0101u * (unsigned)byte) & 0xfff0ff0fu;
        uint32_t by = 0x2c003c00u, less = 0xd480e408u; // 1 and 1/16; -1032 and -72
        uint32_t scale = __byte_perm(first, second, 0x5410), middle = __byte_perm(first, second, 0x7632);
        __half2 code = __hfma2(*(__half2 *)&u, *(__half2 *)&by, *(__half2 *)&less);
        __half2 both = __hfma2(code, *(__half2 *)&scale, *(__half2 *)&middle);
        return *(uint32_t *)&both;
    }
    float2 low = unpack_two<HALF>(first), high = unpack_two<HALF>(second);
    int code = (int)(codes >> (8 * byte)) & 255;
    return pack_two<O>(fmaf((float)((code & 15) - 8), low.x, low.y), fmaf((float)((code >> 4) - 8), high.x, high.y));
}

#endif
