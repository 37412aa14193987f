// A run on the stand-in spends its time here: eight columns are summed side by side where AVX2 is there, and one by one
// where it is not, or where a number is too large or too small for that.
#include "units.h"

#include <math.h>
#include <string.h>
#include <algorithm>
#if defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#endif

#include "host/kernels/ptx.h"

enum {
    ZERO = -1000,    // a zero's exponent: below that of any product
    INFINITE = 4000, // of infinities and NaN: even times a zero above that of any product
};

// Of a number whose type's smallest normal exponent is `lowest`.
static int exponent_of(float x, int lowest)
{
    int field = (int)(standin_bits(x) >> 23 & 255);
    if (x == 0)
        return ZERO;
    return field == 255 ? INFINITE : std::max(field - 127, lowest);
}

static int lowest_of(bool half)
{
    return half ? -14 : -126;
}

/* -------------------------------------------------------------------------------- one sum */

static float cut_to_float(double x)
{
    float y = (float)x;
    if (fabs(x) < 0x1p128 && fabs((double)y) > fabs(x))
        y = nextafterf(y, 0);
    return y;
}

// Column `column` of a row, for k in [first, first + u.block). Double holds every number here exactly.
static float add_block(const struct units &u, float sum, int first, const float *left, const int32_t *left_exponent,
                       const struct right_factor &right, int column)
{
    int most = exponent_of(sum, lowest_of(false));
    double whole = sum;
    for (int k = first; k < first + u.block; k++) {
        most = std::max(most, left_exponent[k] + right.exponent[k][column]);
        whole += (double)left[k] * right.x[k][column];
    }
    if (!isfinite(whole))
        return (float)whole;
    double last = ldexp(1, most - u.bits), cut = trunc(sum / last);
    for (int k = first; k < first + u.block; k++)
        cut += trunc((double)left[k] * right.x[k][column] / last);
    return cut_to_float(cut * last);
}

#if defined(__FMA__) && defined(__F16C__)

/* -------------------------------------------------------------------------------- eight at a time */

static inline __m256i exponents_of(__m256 x, int lowest)
{
    __m256i field = _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(x), 23), _mm256_set1_epi32(255));
    __m256i e = _mm256_max_epi32(_mm256_sub_epi32(field, _mm256_set1_epi32(127)), _mm256_set1_epi32(lowest));
    __m256i zero = _mm256_castps_si256(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_EQ_OQ));
    e = _mm256_blendv_epi8(e, _mm256_set1_epi32(ZERO), zero);
    return _mm256_blendv_epi8(e, _mm256_set1_epi32(INFINITE), _mm256_cmpeq_epi32(field, _mm256_set1_epi32(255)));
}

static inline void put(float *x, int32_t *exponent, __m256 numbers, int lowest)
{
    _mm256_storeu_ps(x, numbers);
    _mm256_storeu_si256((__m256i *)exponent, exponents_of(numbers, lowest));
}

void decode_left(bool half, struct left_factor *out, const uint32_t (*in)[8])
{
    for (int row = 0; row < 16; row++)
        for (int i = 0; i < 8; i += 4) {
            __m128i w = _mm_loadu_si128((const __m128i *)&in[row][i]);
            __m256 x = half ? _mm256_cvtph_ps(w) : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(w), 16));
            put(&out->x[row][2 * i], &out->exponent[row][2 * i], x, lowest_of(half));
        }
}

// Eight 32-bit numbers below 65536, as halves.
static inline __m256 from_halves(__m256i w)
{
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}

void decode_right(bool half, struct right_factor *out, const uint32_t (*in)[8])
{
    for (int i = 0; i < 8; i++) {
        __m256i w = _mm256_loadu_si256((const __m256i *)in[i]);
        __m256i even = _mm256_slli_epi32(w, 16), odd = _mm256_andnot_si256(_mm256_set1_epi32(0xffff), w);
        __m256 x = half ? from_halves(_mm256_srli_epi32(even, 16)) : _mm256_castsi256_ps(even);
        __m256 y = half ? from_halves(_mm256_srli_epi32(odd, 16)) : _mm256_castsi256_ps(odd);
        put(out->x[2 * i], out->exponent[2 * i], x, lowest_of(half));
        put(out->x[2 * i + 1], out->exponent[2 * i + 1], y, lowest_of(half));
    }
}

// Exponents for which a float holds every product and every unit of the last bit.
enum { SMALLEST = -90, LARGEST = 100 };

// 2^e, e in SMALLEST - 23 .. LARGEST + 23 or so.
static inline __m256 power_of_two(__m256i e)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
}

// Two sums of four 32-bit integers, times a unit, as floats cut towards zero: dropping bits of a double cuts it.
static inline __m128 to_floats(__m128i x, __m128i y, __m128 unit)
{
    __m256d sum = _mm256_add_pd(_mm256_cvtepi32_pd(x), _mm256_cvtepi32_pd(y));
    __m256d kept = _mm256_castsi256_pd(_mm256_set1_epi64x(-(1ll << 29)));
    return _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_and_pd(sum, kept), _mm256_cvtps_pd(unit)));
}

enum { PART = 8 }; // so many products of up to 2^27 and the sum fit into 32 bits

// Adds the products of PART k, cut, to eight integers.
static inline __m256i add_part(__m256i cut, __m256 scale, int first, const float *left,
                               const struct right_factor &right)
{
    for (int k = first; k < first + PART; k++) {
        __m256 product = _mm256_mul_ps(_mm256_broadcast_ss(&left[k]), _mm256_loadu_ps(right.x[k]));
        cut = _mm256_add_epi32(cut, _mm256_cvttps_epi32(_mm256_mul_ps(product, scale)));
    }
    return cut;
}

// A row, for k in [first, first + BLOCK), BLOCK being u.block.
template <int BLOCK>
static inline void add_row(const struct units &u, float *sum, int first, const float *left,
                           const int32_t *left_exponent, const struct right_factor &right)
{
    const __m256i zeros = _mm256_setzero_si256();
    __m256 before = _mm256_loadu_ps(sum);
    __m256i most = exponents_of(before, lowest_of(false));
    for (int k = first; k < first + BLOCK; k++)
        most = _mm256_max_epi32(most, _mm256_add_epi32(_mm256_set1_epi32(left_exponent[k]),
                                                       _mm256_loadu_si256((const __m256i *)right.exponent[k])));
    __m256i bounded = _mm256_min_epi32(_mm256_max_epi32(most, _mm256_set1_epi32(SMALLEST)), _mm256_set1_epi32(LARGEST));
    // the largest is within the bounds, or all are zeros
    __m256i fine =
        _mm256_or_si256(_mm256_cmpeq_epi32(bounded, most), _mm256_cmpgt_epi32(_mm256_set1_epi32(ZERO / 2), most));
    int others = ~_mm256_movemask_ps(_mm256_castsi256_ps(fine)) & 255;
    __m256i shift = _mm256_sub_epi32(_mm256_set1_epi32(u.bits), bounded);
    __m256 scale = power_of_two(shift), unit = power_of_two(_mm256_sub_epi32(zeros, shift));
    __m256i low = add_part(_mm256_cvttps_epi32(_mm256_mul_ps(before, scale)), scale, first, left, right);
    __m256i high = BLOCK > PART ? add_part(zeros, scale, first + PART, left, right) : zeros;
    _mm_storeu_ps(sum,
                  to_floats(_mm256_castsi256_si128(low), _mm256_castsi256_si128(high), _mm256_castps256_ps128(unit)));
    _mm_storeu_ps(sum + 4, to_floats(_mm256_extracti128_si256(low, 1), _mm256_extracti128_si256(high, 1),
                                     _mm256_extractf128_ps(unit, 1)));
    if (!others)
        return;
    float old[8];
    _mm256_storeu_ps(old, before);
    for (int column = 0; column < 8; column++)
        if (others >> column & 1)
            sum[column] = add_block(u, old[column], first, left, left_exponent, right, column);
}

#else

/* -------------------------------------------------------------------------------- one by one */

static void put(bool half, uint32_t word, float *x, float *y, int32_t *x_exponent, int32_t *y_exponent)
{
    float2 two = half ? unpack_two<HALF>(word) : unpack_two<BFLOAT>(word);
    *x = two.x;
    *y = two.y;
    *x_exponent = exponent_of(two.x, lowest_of(half));
    *y_exponent = exponent_of(two.y, lowest_of(half));
}

void decode_left(bool half, struct left_factor *out, const uint32_t (*in)[8])
{
    for (int row = 0; row < 16; row++)
        for (int i = 0; i < 8; i++)
            put(half, in[row][i], &out->x[row][2 * i], &out->x[row][2 * i + 1], &out->exponent[row][2 * i],
                &out->exponent[row][2 * i + 1]);
}

void decode_right(bool half, struct right_factor *out, const uint32_t (*in)[8])
{
    for (int i = 0; i < 8; i++)
        for (int column = 0; column < 8; column++)
            put(half, in[i][column], &out->x[2 * i][column], &out->x[2 * i + 1][column], &out->exponent[2 * i][column],
                &out->exponent[2 * i + 1][column]);
}

template <int BLOCK>
static void add_row(const struct units &u, float *sum, int first, const float *left, const int32_t *left_exponent,
                    const struct right_factor &right)
{
    for (int column = 0; column < 8; column++)
        sum[column] = add_block(u, sum[column], first, left, left_exponent, right, column);
}

#endif

template <int BLOCK>
static void add_rows(const struct units &u, float (*sum)[8], const struct left_factor &left,
                     const struct right_factor &right)
{
    for (int first = 0; first < 16; first += BLOCK)
        for (int row = 0; row < 16; row++)
            add_row<BLOCK>(u, sum[row], first, left.x[row], left.exponent[row], right);
}

void multiply(const struct units &u, float (*sum)[8], const struct left_factor &left, const struct right_factor &right)
{
    if (u.block == 16)
        add_rows<16>(u, sum, left, right);
    else
        add_rows<8>(u, sum, left, right);
}
