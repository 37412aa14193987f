/* device/gpu.h
 *
 * What the CUDA device's products and attention keep beside their tensors in a program with tangents. Plain C, as device/tiles.h is, so
 * that a GPU's memory can be planned on a machine without one.
 *
 * There operands go into the matrix units rounded once (device_set_tangents: 16 bits, or 8), so x is rounded once for a
 * product instead of in each of its tiles. The workspace holds, for every lane and position of x, a row of numbers:
 *
 *     halves (or bfloats)   [lanes][positions][numbers], 2 bytes each; numbers: channels padded with zeros to whole chunks
 *                           of 32; in each sixteen first every thread's channels 4t, 4t+1, then every thread's 4t+2,
 *                           4t+3, as in 16-bit weights (device/tiles.h)
 *     codes                 [tangents][positions][numbers], a byte each, in the order of channels; they lie where the
 *                           tangents' halves would lie
 *     outliers              [tangents][positions][16 or 32] halves, after the codes: the numbers of the outlier channels
 *     scales                float [tangents][positions][blocks], after the halves
 *     outliers' weights     [taps][packed rows][OUTLIERS] codes, after the scales
 *
 * A block of channels has one scale, and is as long as on the CPU, so that both round alike.
 */
#ifndef ZOODIP_DEVICE_GPU_H
#define ZOODIP_DEVICE_GPU_H

#ifdef __cplusplus
extern "C" {
#endif

#include "device/backend.h"

struct gpu_work {
    int64_t numbers;                        /* of a row */
    int64_t block, blocks;                  /* channels of a block, and how many there are; 0: no codes */
    int64_t codes, scales, outlier_weights; /* bytes from the start of the workspace */
    int64_t bytes;
};

/* Do products round their operands once, rather than to a pair of halves: is this a program of tangents in 16 or 8
 * bits? */
static inline bool gpu_rounds_once(const struct device *device)
{
    return device->tangents.of.base && (device->tangent_bits == 8 || device->tangent_bits == 16);
}

/* coded: the weight that blocks of codes are multiplied with; NULL: there are none. */
struct gpu_work gpu_work_of(const struct device *device, struct tensor x, const struct weight *coded);

/* Attention's workspace: k and v rounded for the matrix units, so that this is not done again for each block of queries.
 *
 *     numbers    [k, v][parts][lanes][heads][keys][depth], 2 bytes each. parts: 1 where operands are rounded once, else
 *                halves and what they leave. depth: a head's channels, padded with zeros to whole sixteens
 *     largest    float [tangents][GPU_SHARES]: the largest number of q., k. and v. in each share of their positions
 */
enum { GPU_SHARES = 32 };
struct gpu_attention {
    int64_t parts, depth;
    int64_t largest; /* bytes from the start of the workspace */
    int64_t bytes;
};

struct gpu_attention gpu_attention_of(const struct device *device, struct tensor k, int64_t heads);

code_blocks gpu_code_blocks;
product_work gpu_product_work;
attention_work gpu_attention_work;
void gpu_describe_codes(struct device *device); /* sets code_families and has_halves */

#ifdef __cplusplus
}
#endif

#endif
