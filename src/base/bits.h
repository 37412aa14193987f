/* base/bits.h
 *
 * A float and its 32 bits, in the common subset of C and CUDA C++.
 */
#ifndef ZOODIP_BASE_BITS_H
#define ZOODIP_BASE_BITS_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define BITS_INLINE __host__ __device__ static inline
#else
#define BITS_INLINE static inline
#endif

BITS_INLINE uint32_t float_to_bits(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

BITS_INLINE float bits_to_float(uint32_t bits)
{
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

#endif
