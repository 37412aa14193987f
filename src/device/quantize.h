/* device/quantize.h
 *
 * Weights of 8 and 4 bits as optimum-quanto makes them (quanto/tensor/optimizers, quanto/library/quantize), with all
 * arithmetic in the source's number type. Eight bits, qint8: per output channel, symmetric.
 *
 *     scale = amax / 127;  code = clamp(round_half_even(w / scale), -128, 127);  a row of zeros: scale 0, codes 0
 *
 * Four bits, qint4: a row of in * kh * kw numbers, in the file's order, is cut into groups, each affine.
 *
 *     scale = (max - min) / 15;  shift = -min;  code = clamp(round_half_even((w + shift) / scale), 0, 15)
 *     value = scale * code - shift;  a group of equal numbers: scale 0, codes 0, the value exact
 *
 * A value is computed in float from the scale and shift widened to float, as quanto does for a model in fp32.
 *
 * Four bits in a file: the groups of all rows form a matrix [groups, group]; its first half of rows (rounded up) is in
 * the low halves of the bytes [(groups + 1) / 2, group], the rest in the high halves. Scales and shifts are [groups].
 *
 * A single row that no group divides is a special case: quanto then gives a scale to every place of the tensor's last
 * dimension, `cycle` of them, and number i has scale i % cycle. For a linear layer that is one scale per number, which
 * is exact; devices keep such a row in floats.
 */
#ifndef ZOODIP_DEVICE_QUANTIZE_H
#define ZOODIP_DEVICE_QUANTIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "device/device.h"

/* weights [out, in] of type F32, F16 or BF16 (any alignment) -> codes [out, in], scales [out] of the same type. */
void quantize_weight(int8_t *codes, void *scales, const void *weights, enum dtype type, int64_t out, int64_t in);

/* Numbers of a row that share a scale in 4 bits: 128, 96, 64 or 32, the largest that divides a longer row; else all. */
int64_t quantize_group(int64_t depth);

/* Whether rows of `depth` numbers are cut into groups at all, and whether `out` of them are that special case. */
bool quantize_cycles(int64_t out, int64_t depth);

/* Whether the scales of weights [out, depth] in groups are finite: a group's range may be beyond what its type holds,
 * though its numbers are not. */
bool quantize_fits4(const void *weights, enum dtype type, int64_t out, int64_t depth);

/* weights [out, depth] of type F32, F16 or BF16 (any alignment) -> packed codes [(groups + 1) / 2, group], scales and
 * shifts [groups] of the same type, groups = out * depth / group; of a single row without groups: [last], last being
 * the length of the tensor's last dimension. */
void quantize_weight4(uint8_t *packed, void *scales, void *shifts, const void *weights, enum dtype type, int64_t out,
                      int64_t depth, int64_t last);

/* In what follows a row may be of the sources joined to a source (next). */

/* Row `row` of a source as int8 codes [depth], in the file's order; returns their scale. Codes of the source are used
 * as they are; floats are quantized. */
float weight_row_codes8(const struct weight_source *source, int64_t row, int8_t *codes);

/* Row `row` of a source in 4 bits: codes [depth], one in a byte, in the file's order; scales and shifts [depth /
 * group]. Codes of a 4-bit source are used as they are; floats are quantized; other types, and a single row without
 * groups, are not allowed. */
void weight_row_codes4(const struct weight_source *source, int64_t row, uint8_t *codes, float *scales, float *shifts);

/* Row `row` of a source of any type, as floats [depth] in the file's order. */
void weight_row_floats(const struct weight_source *source, int64_t row, float *to);

/* Bias `row` of a source that has one. */
float weight_row_bias(const struct weight_source *source, int64_t row);

#endif
