/* tests/cuda/units.h
 *
 * How matrix units add, which no documentation says; measured by Fasi et al., "Numerical behavior of NVIDIA tensor
 * cores" (2021), and by Xie et al., "MMA-Sim" (2025), for every generation. A unit takes a block of k at a time:
 *
 *     1. Products are exact, with the sum of their factors' exponents for an exponent: 1.5 x 1.5 is 2.25 x 2^0.
 *     2. The products and the sum so far are aligned to the largest exponent among them, and CUT: what lies below bit
 *        `bits` behind the point is lost, towards zero.
 *     3. They are added exactly, and the result is cut to a float, again towards zero.
 *
 * So a long sum shrinks, and loses several times what rounding to nearest would. Numbers below the normal ones, of the
 * factors and of the sum, count as what they are; a zero has no exponent. A result from 2^128 on is infinite.
 */
#ifndef ZOODIP_TESTS_CUDA_UNITS_H
#define ZOODIP_TESTS_CUDA_UNITS_H

#include <stdint.h>

struct units {
    int block; /* 8 or 16 of the 16 k of mma.m16n8k16 */
    int bits;  /* behind the point that are kept, 23 being a float's own */
};

/* One factor's numbers and their exponents, which are those of the 16-bit type: [row][k] and [k][column]. */
struct left_factor {
    float x[16][16];
    int32_t exponent[16][16];
};
struct right_factor {
    float x[16][8];
    int32_t exponent[16][8];
};

/* From words of two numbers, each with its lower k in the low half: left [row][k / 2], right [k / 2][column]. */
void decode_left(bool half, struct left_factor *out, const uint32_t (*in)[8]);
void decode_right(bool half, struct right_factor *out, const uint32_t (*in)[8]);

/* sum [row][column] += left right. */
void multiply(const struct units &u, float (*sum)[8], const struct left_factor &left, const struct right_factor &right);

#endif
