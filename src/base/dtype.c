#include "base/dtype.h"

#include <string.h>

#include "base/bits.h"

static const struct {
    const char *name;
    int size;
} dtypes[DTYPE_COUNT] = {
    [F64] = {"F64", 8}, [F32] = {"F32", 4}, [F16] = {"F16", 2}, [BF16] = {"BF16", 2}, [I64] = {"I64", 8},
    [I32] = {"I32", 4}, [I16] = {"I16", 2}, [I8] = {"I8", 1},   [U8] = {"U8", 1},     [BOOL] = {"BOOL", 1},
};

int64_t dtype_size(enum dtype type)
{
    return dtypes[type].size;
}

bool dtype_is_weight(enum dtype type)
{
    return type == F32 || type == F16 || type == BF16;
}

const char *dtype_name(enum dtype type)
{
    return dtypes[type].name;
}

float half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 1023;
    if (exponent == 31)
        return bits_to_float(sign | 0x7f800000 | mantissa << 13);
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24, exact in float */
        float magnitude = (float)mantissa * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t float_to_half(float value)
{
    uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) /* from 65520 on: infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* below 2^-14: adding 0.5 lets the adder round to multiples of 2^-24 */
        float rounded = bits_to_float(magnitude) + 0.5f;
        return (uint16_t)(sign | (float_to_bits(rounded) - 0x3f000000));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | (magnitude - 0x38000000 + 0xfff + odd) >> 13);
}

float bfloat_to_float(uint16_t bits)
{
    return bits_to_float((uint32_t)bits << 16);
}

uint16_t float_to_bfloat(float value)
{
    uint32_t bits = float_to_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* One bit at the lowest place of the exponent, in each of the numbers that fill a word; 0 for integers. */
static uint64_t exponent_units(enum dtype type)
{
    switch (type) {
    case F64:
        return 0x0010000000000000;
    case F32:
        return 0x0080000000800000;
    case F16:
        return 0x0400040004000400;
    case BF16:
        return 0x0080008000800080;
    default:
        return 0;
    }
}

/* A number is infinite or NaN if its exponent is all ones; one more then carries into the place of the sign. Several
 * numbers are looked at in each addition, and none carries into its neighbour. */
bool dtype_finite(const void *from, enum dtype type, int64_t count)
{
    const unsigned char *at = from;
    int64_t left = count * dtypes[type].size;
    uint64_t unit = exponent_units(type), carried = 0, word;
    uint64_t signs = dtypes[type].size == 8   ? 0x8000000000000000
                     : dtypes[type].size == 4 ? 0x8000000080000000
                                              : 0x8000800080008000;
    if (!unit)
        return true;
    for (; left >= 8; left -= 8, at += 8) {
        memcpy(&word, at, sizeof word);
        carried |= (word & ~signs) + unit;
    }
    word = 0;
    memcpy(&word, at, (size_t)left);
    carried |= (word & ~signs) + unit;
    return !(carried & signs);
}

void dtype_to_float(float *to, const void *from, enum dtype type, int64_t count)
{
    const unsigned char *bytes = from;
    for (int64_t i = 0; i < count; i++, bytes += dtypes[type].size) {
        double wide;
        uint16_t half;
        switch (type) {
        case F64:
            memcpy(&wide, bytes, sizeof wide);
            to[i] = (float)wide;
            break;
        case F16:
            memcpy(&half, bytes, sizeof half);
            to[i] = half_to_float(half);
            break;
        case BF16:
            memcpy(&half, bytes, sizeof half);
            to[i] = bfloat_to_float(half);
            break;
        case I8:
            to[i] = (float)(int8_t)*bytes;
            break;
        default:
            memcpy(to + i, bytes, sizeof *to);
        }
    }
}
