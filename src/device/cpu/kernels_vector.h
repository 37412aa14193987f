/* device/cpu/kernels_vector.h
 *
 * A vector of WIDTH floats for kernels.c, and the few operations that the compilers' vector arithmetic (+ - * / and
 * comparisons) lacks: fused multiply-add, maximum, and the transcendental functions. Every element is rounded the same
 * way, so that a tail may be computed in a whole vector.
 */
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
enum { WIDTH = 16 };
#elif defined(__AVX2__)
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif

typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef int32_t ivec __attribute__((vector_size(4 * WIDTH)));
typedef int8_t bvec __attribute__((vector_size(WIDTH)));

static inline vec splat(float x)
{
    return x - (vec){0};
}

static inline vec load(const float *from)
{
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void store(float *to, vec v)
{
    memcpy(to, &v, sizeof v);
}

/* WIDTH bytes, each in its own element. */
static inline ivec load_bytes(const uint8_t *from)
{
#if defined(__AVX512F__)
    return (ivec)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
#elif defined(__AVX2__)
    return (ivec)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
#else
    ivec v;
    for (int i = 0; i < WIDTH; i++)
        v[i] = from[i];
    return v;
#endif
}

static inline vec float_of(ivec v)
{
    return __builtin_convertvector(v, vec);
}

#if defined(__AVX512F__)
/* A mask of the first elements, of which there are fewer than WIDTH. */
static inline __mmask16 first_of(int64_t count)
{
    return (__mmask16)((1u << count) - 1);
}
#endif

static inline vec load_some(const float *from, int64_t count)
{
    if (count >= WIDTH)
        return load(from);
#if defined(__AVX512F__)
    return (vec)_mm512_maskz_loadu_ps(first_of(count), from);
#else
    vec v = {0};
    memcpy(&v, from, (size_t)count * sizeof *from);
    return v;
#endif
}

static inline void store_some(float *to, vec v, int64_t count)
{
    if (count >= WIDTH) {
        store(to, v);
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, first_of(count), (__m512)v);
#else
    memcpy(to, &v, (size_t)count * sizeof *to);
#endif
}

/* Elements that fit into bytes, as such. */
static inline void store_bytes(int8_t *to, ivec v, int64_t count)
{
#if defined(__AVX512F__)
    _mm512_mask_cvtepi32_storeu_epi8(to, count >= WIDTH ? (__mmask16)-1 : first_of(count), (__m512i)v);
#else
#if defined(__AVX2__)
    __m256i all = (__m256i)v;
    __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    int64_t bytes = _mm_cvtsi128_si64(_mm_packs_epi16(pairs, pairs));
#else
    bvec bytes = __builtin_convertvector(v, bvec);
#endif
    if (count >= WIDTH)
        memcpy(to, &bytes, sizeof bytes);
    else
        memcpy(to, &bytes, (size_t)count);
#endif
}

/* mask's elements are all ones or all zeros */
static inline vec choose(ivec mask, vec yes, vec no)
{
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

static inline vec fma_of(vec a, vec b, vec c)
{
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* b where either is not a number */
static inline vec max_of(vec a, vec b)
{
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

/* The bits of |x|, which as integers are ordered as the numbers are, with what is not finite from SIZE_OF_INFINITY on. */
enum { SIZE_OF_INFINITY = 0x7f800000 };

static inline ivec size_of(vec x)
{
    return (ivec)x & 0x7fffffff;
}

static inline ivec larger_of(ivec a, ivec b)
{
#if defined(__AVX512F__)
    return (ivec)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (ivec)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    ivec more = a > b;
    return (more & a) | (~more & b);
#endif
}

/* The largest element; the sum of all. */
static inline int32_t largest_of(ivec v)
{
#if defined(__AVX512F__)
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    int32_t largest = v[0];
    for (int i = 1; i < WIDTH; i++)
        largest = v[i] > largest ? v[i] : largest;
    return largest;
#endif
}

static inline int32_t sum_of(ivec v)
{
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)v);
#else
    int32_t sum = 0;
    for (int i = 0; i < WIDTH; i++)
        sum += v[i];
    return sum;
#endif
}

/* 2^x for x in [-126, 127], smaller ones give 2^-126 and larger ones 2^127. Relative error below 1e-7: x = n + r with
 * |r| <= 1/2, 2^r a polynomial fitted to (2^r - 1) / r at Chebyshev's nodes. */
static inline vec exp2_of(vec x)
{
    x = max_of(splat(-126.f), x); // this order lets a NaN through
    x = -max_of(splat(-127.f), -x);
    const vec magic = splat(0x1.8p23f); // adding it leaves round(x) in the lowest bits
    vec shifted = x + magic;
    vec r = x - (shifted - magic);
    vec p = splat(0.00015461447765119374f);
    p = fma_of(p, r, splat(0.0013390866806730628f));
    p = fma_of(p, r, splat(0.009618056938052177f));
    p = fma_of(p, r, splat(0.055503569543361664f));
    p = fma_of(p, r, splat(0.24022650718688965f));
    p = fma_of(p, r, splat(0.6931471824645996f));
    p = fma_of(p, r, splat(1.f));
    return (vec)((ivec)p + (((ivec)shifted - (ivec)magic) << 23));
}

static inline vec logistic(vec x)
{
    return splat(1.f) / (splat(1.f) + exp2_of(x * splat(-1.44269504f)));
}

/* |x|, and 9 where that is larger. */
static inline vec up_to_9(vec x)
{
    return -max_of(splat(-9.f), -max_of(x, -x));
}

/* Phi(-a), the normal distribution's lower tail, for a in [0, 9]: 2^p(a), p fitted to log2(erfc(a / sqrt 2) / 2),
 * weighted so that a Phi(-a) is off by less than 6e-8. */
static inline vec lower_tail(vec a)
{
    vec p = splat(7.027153259286933e-08f);
    p = fma_of(p, a, splat(-2.1059095161035657e-06f));
    p = fma_of(p, a, splat(2.3531969418399967e-05f));
    p = fma_of(p, a, splat(-9.692402818473056e-05f));
    p = fma_of(p, a, splat(-0.0003736133221536875f));
    p = fma_of(p, a, splat(0.007392308674752712f));
    p = fma_of(p, a, splat(-0.052733130753040314f));
    p = fma_of(p, a, splat(-0.45912906527519226f));
    p = fma_of(p, a, splat(-1.1511139869689941f));
    p = fma_of(p, a, splat(-1.f));
    return exp2_of(p);
}

/* x Phi(x), without cancellation on either side. */
static inline vec gelu_of(vec x)
{
    vec tail = x * lower_tail(up_to_9(x));
    return choose(x > splat(0.f), x - tail, tail);
}

/* Phi(x) + x phi(x). */
static inline vec gelu_slope(vec x)
{
    vec a = up_to_9(x), tail = lower_tail(a);
    vec density = splat(0.39894228f) * exp2_of(a * a * splat(-0.72134752f)); // phi(x)
    return choose(x > splat(0.f), fma_of(a, density, splat(1.f) - tail), tail - a * density);
}

/* The derivative of x logistic(b x): s (1 + b x (1 - s)), s = logistic(b x), in which 1 - s keeps its digits. */
static inline vec swish_slope(vec x, vec b)
{
    vec u = x * b, e = exp2_of(u * splat(-1.44269504f)), s = splat(1.f) / (splat(1.f) + e);
    return s * fma_of(u, e * s, splat(1.f));
}

static inline vec act_of(vec x, enum act act)
{
    switch (act) {
    case ACT_SILU:
        return x * logistic(x);
    case ACT_GELU:
        return gelu_of(x);
    case ACT_QUICK_GELU:
        return x * logistic(x * splat(1.702f));
    default:
        return x;
    }
}

static inline vec act_slope(vec x, enum act act)
{
    switch (act) {
    case ACT_SILU:
        return swish_slope(x, splat(1.f));
    case ACT_GELU:
        return gelu_slope(x);
    case ACT_QUICK_GELU:
        return swish_slope(x, splat(1.702f));
    default:
        return splat(1.f);
    }
}
