#include "base/dtype.h"

#include <math.h>
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

/* The bits of a limit > 0 in a type, which order as the magnitudes do. */
static uint64_t bits_of(enum dtype type, float limit)
{
    double wide = limit;
    uint64_t bits;
    if (type == F32)
        return float_to_bits(limit);
    if (type == F16)
        return float_to_half(limit);
    if (type == BF16)
        return float_to_bfloat(limit);
    memcpy(&bits, &wide, sizeof bits);
    return bits;
}

/* A magnitude's bits carry into the place of the sign if they reach the limit's: with 2^(bits - 1) - limit added. The
 * numbers that fill a word are looked at in one addition, and none carries into its neighbour. */
bool dtype_below(const void *from, enum dtype type, int64_t count, float limit)
{
    if (type != F64 && !dtype_is_weight(type))
        return true;
    const unsigned char *at = from;
    int64_t size = dtypes[type].size, left = count * size;
    uint64_t ones = size == 8 ? 1 : size == 4 ? 0x0000000100000001 : 0x0001000100010001, carried = 0, word;
    uint64_t signs = ones << (8 * size - 1), up = signs - ones * bits_of(type, limit);
    for (; left >= 8; left -= 8, at += 8) {
        memcpy(&word, at, sizeof word);
        carried |= (word & ~signs) + up;
    }
    word = 0;
    memcpy(&word, at, (size_t)left);
    carried |= (word & ~signs) + up;
    return !(carried & signs);
}

bool dtype_finite(const void *from, enum dtype type, int64_t count)
{
    return dtype_below(from, type, count, INFINITY);
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
