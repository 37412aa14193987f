/* base/rng_core.h
 *
 * The arithmetic of base/rng.h, inline, in the common subset of C and CUDA C++: integers, fmaf, multiplication,
 * addition, sqrtf and nothing else. Each of them is exactly rounded everywhere, so host and GPU draw the same bits,
 * whatever the compiler and the instruction set, as long as nothing contracts or reorders (-ffp-contract=off,
 * -fmad=false). Choices are made with integers, without branches, so that the compiler can vectorize a loop over words.
 *
 * The polynomials are minimax fits in the relative error, coefficients rounded to float: log(1 + f) to 8e-10 for
 * 1 + f in [sqrt(1/2), sqrt(2)], sin and cos of a turn to 5e-12 and 7e-11 within an eighth of a turn of their quadrant.
 */
#ifndef ZOODIP_BASE_RNG_CORE_H
#define ZOODIP_BASE_RNG_CORE_H

#include <math.h>
#include <stdint.h>

#include "base/bits.h"

#ifdef __CUDACC__
#define RNG_INLINE __host__ __device__ static inline
#else
#define RNG_INLINE static inline
#endif

/* Ten rounds of: multiply two words by constants, swap halves, mix in the key, which grows by a Weyl sequence. Equals
 * the Random123 known-answer vectors. */
RNG_INLINE void rng_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t a = counter[0], b = counter[1], c = counter[2], d = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p = (uint64_t)0xD2511F53u * a, q = (uint64_t)0xCD9E8D57u * c;
        a = (uint32_t)(q >> 32) ^ b ^ k0;
        b = (uint32_t)q;
        c = (uint32_t)(p >> 32) ^ d ^ k1;
        d = (uint32_t)p;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = a;
    out[1] = b;
    out[2] = c;
    out[3] = d;
}

/* Four words of a stream, numbers 4 block .. 4 block + 3. */
RNG_INLINE void rng_block(uint64_t seed, uint64_t step, uint32_t stream, uint32_t block, uint32_t out[4])
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {block, stream, (uint32_t)step, (uint32_t)(step >> 32)};
    rng_philox(counter, key, out);
}

/* A word as a number in (0, 1): 2^-33 at least, 1 - 2^-24 at most. Small numbers keep all 32 bits: they are the
 * tails. */
RNG_INLINE float rng_uniform(uint32_t word)
{
    uint32_t bits = float_to_bits(fmaf((float)word, 0x1p-32f, 0x1p-33f));
    return bits_to_float(bits - (bits == 0x3F800000)); // 1 becomes the number before it
}

/* Natural logarithm of a normal u > 0. */
RNG_INLINE float rng_log(float u)
{
    // u = 2^exponent (1 + f), split at sqrt(1/2) so that near 1 the exponent is 0 and nothing cancels
    int32_t shifted = (int32_t)float_to_bits(u) - 0x3F3504F3;
    int32_t exponent = (shifted - (shifted & 0x7FFFFF)) / 0x800000;
    float f = bits_to_float((uint32_t)((shifted & 0x7FFFFF) + 0x3F3504F3)) - 1.0f;
    float p = 0x1.1457a6p-4f;
    p = fmaf(p, f, -0x1.de3c16p-4f);
    p = fmaf(p, f, 0x1.e6f06ap-4f);
    p = fmaf(p, f, -0x1.fc2208p-4f);
    p = fmaf(p, f, 0x1.233768p-3f);
    p = fmaf(p, f, -0x1.555c4ep-3f);
    p = fmaf(p, f, 0x1.99a4b6p-3f);
    p = fmaf(p, f, -0x1.000006p-2f);
    p = fmaf(p, f, 0x1.555548p-2f);
    // log(1 + f) = f - f^2/2 + f^3 p
    float square = f * f;
    p = fmaf(p * f, square, -0.5f * square);
    return fmaf((float)exponent, 0x1.62e43p-1f, f + p);
}

/* Sine and cosine of word / 2^32 turns. The quadrant is taken off in integers, exactly; it swaps the two and gives them
 * their signs. */
RNG_INLINE void rng_turn(uint32_t word, float *sine, float *cosine)
{
    uint32_t quadrant = (word + 0x20000000u) >> 30;
    float x = (float)(int32_t)(word - (quadrant << 30)) * 0x1p-32f; // of -2^29 .. 2^29 - 1
    float z = x * x;
    float s = 0x1.4bc256p+5f;
    s = fmaf(s, z, -0x1.32ca86p+6f);
    s = fmaf(s, z, 0x1.466bbap+6f);
    s = fmaf(s, z, -0x1.4abbcep+5f);
    s = fmaf(s, z, 0x1.921fb6p+2f) * x;
    float c = 0x1.d9d57ep+5f;
    c = fmaf(c, z, -0x1.55c5e0p+6f);
    c = fmaf(c, z, 0x1.03c1dep+6f);
    c = fmaf(c, z, -0x1.3bd3ccp+4f);
    c = fmaf(c, z, 1.0f);
    uint32_t odd = 0u - (quadrant & 1), swap = (float_to_bits(s) ^ float_to_bits(c)) & odd;
    *sine = bits_to_float(float_to_bits(s) ^ swap ^ (quadrant & 2) << 30);
    *cosine = bits_to_float(float_to_bits(c) ^ swap ^ ((quadrant + 1) & 2) << 30);
}

/* Two words -> two independent standard normals (Box and Muller, 1958). |normal| < 6.77. */
RNG_INLINE void rng_normal_pair(const uint32_t words[2], float normals[2])
{
    float square = -2.0f * rng_log(rng_uniform(words[0]));
#ifdef __CUDA_ARCH__
    float radius = __fsqrt_rn(square); // sqrtf is not exact under -prec-sqrt=false
#else
    float radius = sqrtf(square);
#endif
    float sine, cosine;
    rng_turn(words[1], &sine, &cosine);
    normals[0] = radius * cosine;
    normals[1] = radius * sine;
}

#endif
