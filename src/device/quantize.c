#include "device/quantize.h"

#include <math.h>
#include <string.h>

/* A value rounded to the source's type: what an operation in that type gives when it is done in float and rounded. */
static float round_to(enum dtype type, float value)
{
    if (type == F16)
        return half_to_float(float_to_half(value));
    if (type == BF16)
        return bfloat_to_float(float_to_bfloat(value));
    return value;
}

static void put_scale(void *scales, enum dtype type, int64_t i, float scale)
{
    uint16_t half = type == F16 ? float_to_half(scale) : float_to_bfloat(scale);
    if (type == F32)
        memcpy((float *)scales + i, &scale, sizeof scale);
    else
        memcpy((uint16_t *)scales + i, &half, sizeof half);
}

void quantize_weight(int8_t *codes, void *scales, const void *weights, enum dtype type, int64_t out, int64_t in)
{
    enum { CHUNK = 512 };
    float chunk[CHUNK];
    const unsigned char *row = weights;
    for (int64_t o = 0; o < out; o++, row += in * dtype_size(type), codes += in) {
        float amax = 0;
        for (int64_t i = 0; i < in; i += CHUNK) {
            int64_t count = in - i < CHUNK ? in - i : CHUNK;
            dtype_to_float(chunk, row + i * dtype_size(type), type, count);
            for (int64_t k = 0; k < count; k++)
                amax = fabsf(chunk[k]) > amax ? fabsf(chunk[k]) : amax;
        }
        float scale = round_to(type, amax / 127.0f);
        put_scale(scales, type, o, scale);
        for (int64_t i = 0; i < in; i += CHUNK) {
            int64_t count = in - i < CHUNK ? in - i : CHUNK;
            dtype_to_float(chunk, row + i * dtype_size(type), type, count);
            for (int64_t k = 0; k < count; k++) {
                // 0 / 0 gives 0; a scale that rounded to zero gives codes of +-infinity
                float code = rintf(round_to(type, chunk[k] / scale));
                codes[i + k] = (int8_t)(code > 127 ? 127 : code < -128 ? -128 : isnan(code) ? 0 : code);
            }
        }
    }
}
