/* base/dtype.h
 *
 * The number types of tensors in files and on devices, and the one place that widens half types to float.
 */
#ifndef ZOODIP_BASE_DTYPE_H
#define ZOODIP_BASE_DTYPE_H

#include <stdbool.h>
#include <stdint.h>

enum dtype { F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL, DTYPE_COUNT };

/* Bytes of one number. */
int64_t dtype_size(enum dtype type);

/* Is it a type that weights are stored in: F32, F16 or BF16? */
bool dtype_is_weight(enum dtype type);

/* "F32" and so on, as safetensors spells it. */
const char *dtype_name(enum dtype type);

/* IEEE half and bfloat16 <-> float; to half rounds to nearest even. */
float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);
float bfloat_to_float(uint16_t bits);
uint16_t float_to_bfloat(float value);

/* Whether count numbers at `from` (any alignment) are all numbers of a magnitude below `limit` > 0, which the type holds
 * exactly; whether they are neither infinite nor NaN. Integers always pass. */
bool dtype_below(const void *from, enum dtype type, int64_t count, float limit);
bool dtype_finite(const void *from, enum dtype type, int64_t count);

/* count numbers at `from` (any alignment; F64, F32, F16, BF16 or I8) widened or rounded to float. */
void dtype_to_float(float *to, const void *from, enum dtype type, int64_t count);

#endif
