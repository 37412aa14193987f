/* device/quantize.h
 *
 * int8 weights as optimum-quanto's qint8 makes them (quanto/tensor/optimizers, quanto/library/quantize): per output
 * channel, symmetric, everything in the source's own number type:
 *
 *     scale = amax / 127;  code = clamp(round_half_even(w / scale), -128, 127);  a row of zeros: scale 0, codes 0
 */
#ifndef ZOODIP_DEVICE_QUANTIZE_H
#define ZOODIP_DEVICE_QUANTIZE_H

#include <stdint.h>

#include "base/dtype.h"

/* weights [out, in] of type F32, F16 or BF16 (any alignment) -> codes [out, in], scales [out] of the same type. */
void quantize_weight(int8_t *codes, void *scales, const void *weights, enum dtype type, int64_t out, int64_t in);

#endif
