/* base/rng.h
 *
 * Every random number has an address: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC
 * 2011) with key = seed and counter = (index / 4, stream, step): a block of four words. There is no state: any rank can
 * draw any number of any step, and a resumed run draws what the uninterrupted one would have. A stream holds 2^34
 * numbers a step.
 *
 * Normals are Box-Muller over explicit fmaf polynomials, not libm, so a GPU kernel can draw the same bits; the
 * arithmetic is in base/rng_core.h.
 */
#ifndef ZOODIP_BASE_RNG_H
#define ZOODIP_BASE_RNG_H

#include <stdint.h>

/* A stream's number is in every random number of it, so it must not change. */
enum stream {
    STREAM_PICTURE,
    STREAM_CAPTION,
    STREAM_FLIP,
    STREAM_POSTERIOR,
    STREAM_NOISE,
    STREAM_TIMESTEP,
    STREAM_EVEN, /* where a sequence of rng_even starts, as word 0 of step 0 */
    STREAM_SAMPLE,
    STREAM_DIRECTION, /* the last: direction i = 1..n has stream STREAM_DIRECTION + i */
};

/* Word `index` of a stream: 32 uniform bits. */
uint32_t rng_word(uint64_t seed, uint64_t step, uint32_t stream, uint64_t index);

/* Uniform integer in [low, high), high > low, from word `index`: the high half of a 32 x 32 bit product. */
int32_t rng_integer(uint64_t seed, uint64_t step, uint32_t stream, uint64_t index, int32_t low, int32_t high);

/* Integer `index` of a sequence in [low, high) of which every stretch is spread evenly (low discrepancy), though each
 * integer alone is uniform: a start out of the seed, plus index golden ratios, modulo the range (Weyl). */
int32_t rng_even(uint64_t seed, uint64_t index, int32_t low, int32_t high);

/* out[i] = standard normal number first + i of a stream, i < count. */
void rng_normals(uint64_t seed, uint64_t step, uint32_t stream, uint64_t first, int64_t count, float *out);

#endif
