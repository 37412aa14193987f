#include "device/cpu/int8.h"

#include <stdlib.h>
#include <string.h>

// older compilers lack the intrinsics
#if defined(ZOODIP_X86) && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AVX512   __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define AMX      __attribute__((target("amx-tile,amx-int8,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define AVX_VNNI __attribute__((target("avx2,fma,avxvnni")))
#define AVX2     __attribute__((target("avx2,fma")))
#define INLINED  static inline __attribute__((always_inline))

/* Four codes of a row, which all columns are multiplied by. */
INLINED int32_t four(const int8_t *x)
{
    int32_t codes;
    memcpy(&codes, x, sizeof codes);
    return codes;
}

/* -------------------------------------------------------------------------------- panels of 32: AVX-512, AMX */

/* Written out, as are its like below: around the intrinsic GCC copies every sum, and stores it at each step. */
AVX512 INLINED __m512i add_fours512(__m512i sums, __m512i w, __m512i fours)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(fours));
    return sums;
}

AVX512 INLINED void add_sums512(float *c, __m512i sums, const struct row_codes *codes, const float *columns, bool add)
{
    __m512 numbers = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_set1_epi32(codes->excess)));
    __m512 old = add ? _mm512_loadu_ps(c) : _mm512_setzero_ps();
    _mm512_storeu_ps(
        c, _mm512_fmadd_ps(_mm512_mul_ps(numbers, _mm512_set1_ps(codes->scale)), _mm512_loadu_ps(columns), old));
}

/* `tile` rows, of which the compiler knows the number. */
AVX512 INLINED void tile512(float *c, const int8_t *x, int64_t stride, const struct row_codes *codes, const uint8_t *w,
                            const float *columns, int tile, int64_t count, bool add)
{
    __m512i sums[12][2];
#pragma GCC unroll 12
    for (int r = 0; r < tile; r++)
        sums[r][0] = sums[r][1] = _mm512_setzero_si512();
    for (int64_t k = 0; k < count; k += 4) {
        __m512i w0 = _mm512_loadu_si512(w + k * 32), w1 = _mm512_loadu_si512(w + k * 32 + 64);
#pragma GCC unroll 12
        for (int r = 0; r < tile; r++) {
            __m512i fours = _mm512_set1_epi32(four(x + r * stride + k));
            sums[r][0] = add_fours512(sums[r][0], w0, fours);
            sums[r][1] = add_fours512(sums[r][1], w1, fours);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < tile; r++) {
        add_sums512(c + r * 32, sums[r][0], codes + r, columns, add);
        add_sums512(c + r * 32 + 16, sums[r][1], codes + r, columns + 16, add);
    }
}

AVX512 static void multiply512(float *c, const int8_t *x, int64_t stride, const struct row_codes *codes,
                               const uint8_t *w, const float *columns, int64_t rows, int64_t count, bool add)
{
    int64_t r = 0;
    for (; r + 12 <= rows; r += 12)
        tile512(c + r * 32, x + r * stride, stride, codes + r, w, columns, 12, count, add);
    for (; r < rows; r += 4)
        tile512(c + r * 32, x + r * stride, stride, codes + r, w, columns, 4, count, add);
}

/* Tiles of 16 rows and 64 terms, 64 terms and 16 columns, 16 rows and 16 columns: four sums of two by two tiles. */
struct tile_shapes {
    uint8_t palette, first_row, reserved[14];
    uint16_t bytes_of_row[16];
    uint8_t rows[16];
};

/* 16 rows, or 32 with `both`. */
AMX INLINED void multiply_tiles(int32_t *sums, const int8_t *x, int64_t stride, const uint8_t *w, int64_t count,
                                bool both)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < count; k += 64) {
        _tile_loadd(4, x + k, stride);
        _tile_loadd(6, w + k * 32, 128);
        _tile_loadd(7, w + k * 32 + 64, 128);
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        if (!both)
            continue;
        _tile_loadd(5, x + 16 * stride + k, stride);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    _tile_stored(0, sums, 128);
    _tile_stored(1, sums + 16, 128);
    if (!both)
        return;
    _tile_stored(2, sums + 16 * 32, 128);
    _tile_stored(3, sums + 16 * 32 + 16, 128);
}

AMX static void multiply_amx(float *c, const int8_t *x, int64_t stride, const struct row_codes *codes, const uint8_t *w,
                             const float *columns, int64_t rows, int64_t count, bool add)
{
    _Alignas(64) int32_t sums[32 * 32];
    static const struct tile_shapes shapes = {
        1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    int64_t r = 0;
    if (count % 64 == 0 && rows >= 16) {
        _tile_loadconfig(&shapes);
        for (int64_t tile; rows - r >= 16; r += tile) {
            tile = rows - r >= 32 ? 32 : 16;
            if (tile == 32)
                multiply_tiles(sums, x + r * stride, stride, w, count, true);
            else
                multiply_tiles(sums, x + r * stride, stride, w, count, false);
            for (int64_t i = 0; i < 2 * tile; i++)
                add_sums512(c + r * 32 + i * 16, _mm512_load_si512(sums + i * 16), codes + r + i / 2,
                            columns + i % 2 * 16, add);
        }
        _tile_release();
    }
    if (r < rows)
        multiply512(c + r * 32, x + r * stride, stride, codes + r, w, columns, rows - r, count, add);
}

/* Linux lets a process use the tiles once it has asked. */
static bool may_use_tiles(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

/* -------------------------------------------------------------------------------- panels of 16: AVX2 */

AVX2 INLINED void add_sums256(float *c, __m256i sums, float scale, const float *columns, bool add)
{
    __m256 old = add ? _mm256_loadu_ps(c) : _mm256_setzero_ps();
    _mm256_storeu_ps(c, _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale)),
                                        _mm256_loadu_ps(columns), old));
}

AVX_VNNI INLINED __m256i add_fours256(__m256i sums, __m256i w, __m256i fours)
{
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(w), "x"(fours));
    return sums;
}

/* `tile` rows, of which the compiler knows the number. */
AVX_VNNI INLINED void tile256(float *c, const int8_t *x, int64_t stride, const struct row_codes *codes,
                              const uint8_t *w, const float *columns, int tile, int64_t count, bool add)
{
    __m256i sums[6][2];
#pragma GCC unroll 6
    for (int r = 0; r < tile; r++)
        sums[r][0] = sums[r][1] = _mm256_set1_epi32(-codes[r].excess);
    for (int64_t k = 0; k < count; k += 4) {
        __m256i w0 = _mm256_loadu_si256((const __m256i *)(w + k * 16));
        __m256i w1 = _mm256_loadu_si256((const __m256i *)(w + k * 16 + 32));
#pragma GCC unroll 6
        for (int r = 0; r < tile; r++) {
            __m256i fours = _mm256_set1_epi32(four(x + r * stride + k));
            sums[r][0] = add_fours256(sums[r][0], w0, fours);
            sums[r][1] = add_fours256(sums[r][1], w1, fours);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < tile; r++) {
        add_sums256(c + r * 16, sums[r][0], codes[r].scale, columns, add);
        add_sums256(c + r * 16 + 8, sums[r][1], codes[r].scale, columns + 8, add);
    }
}

AVX_VNNI static void multiply_vnni(float *c, const int8_t *x, int64_t stride, const struct row_codes *codes,
                                   const uint8_t *w, const float *columns, int64_t rows, int64_t count, bool add)
{
    int64_t r = 0;
    for (; r + 6 <= rows; r += 6)
        tile256(c + r * 16, x + r * stride, stride, codes + r, w, columns, 6, count, add);
    for (; r < rows; r += 2)
        tile256(c + r * 16, x + r * stride, stride, codes + r, w, columns, 2, count, add);
}

/* Pairs of products fit into 16 bits: 2 * 128 * 127 < 2^15, the weight's size unsigned, the row's code with its sign. */
AVX2 INLINED __m256i add_pairs(__m256i sums, __m256i w, __m256i size, __m256i fours)
{
    __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(fours, w));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

AVX2 static void multiply_avx2(float *c, const int8_t *x, int64_t stride, const struct row_codes *codes,
                               const uint8_t *w, const float *columns, int64_t rows, int64_t count, bool add)
{
    const __m256i excess = _mm256_set1_epi8(-128);
    for (int64_t row = 0; row < rows; row += 4) {
        __m256i sums[4][2];
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++)
            sums[r][0] = sums[r][1] = _mm256_setzero_si256();
        for (int64_t k = 0; k < count; k += 4) {
            __m256i w0 = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(w + k * 16)), excess);
            __m256i w1 = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(w + k * 16 + 32)), excess);
            __m256i size0 = _mm256_abs_epi8(w0), size1 = _mm256_abs_epi8(w1);
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                __m256i fours = _mm256_set1_epi32(four(x + (row + r) * stride + k));
                sums[r][0] = add_pairs(sums[r][0], w0, size0, fours);
                sums[r][1] = add_pairs(sums[r][1], w1, size1, fours);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++)
            for (int half = 0; half < 2; half++)
                add_sums256(c + (row + r) * 16 + half * 8, sums[r][half], codes[row + r].scale, columns + half * 8,
                            add);
    }
}

/* -------------------------------------------------------------------------------- which */

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

/* cpuid's leaf 7: the compilers' names for these came after their intrinsics. */
static bool has_leaf7(int subleaf, int bit_of_eax, int bit_of_edx)
{
    unsigned eax = 0, ebx, ecx = (unsigned)subleaf, edx = 0;
    __asm__("cpuid" : "=a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx) : "a"(7));
    return (bit_of_eax < 0 || eax >> bit_of_eax & 1) && (bit_of_edx < 0 || edx >> bit_of_edx & 1);
}

static bool has_amx(void)
{
    return has_avx512() && has_leaf7(0, -1, 24) && has_leaf7(0, -1, 25) && may_use_tiles();
}

static bool has_avx_vnni(void)
{
    return __builtin_cpu_supports("avx2") && has_leaf7(1, 4, -1);
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

const struct int8_unit *int8_pick(int64_t panel)
{
    static const struct {
        struct int8_unit unit;
        int64_t panel;
        bool (*runs_here)(void);
    } fastest_first[] = {
        {{"amx", 64, multiply_amx, 320, true}, 32, has_amx},
        {{"avx512-vnni", 4, multiply512, 320, false}, 32, has_avx512},
        {{"avx-vnni", 4, multiply_vnni, 320, false}, 16, has_avx_vnni},
        {{"avx2", 4, multiply_avx2, 0, false}, 16, has_avx2},
    };
    const char *asked = getenv("ZOODIP_INT8");
    for (size_t i = 0; i < sizeof fastest_first / sizeof *fastest_first; i++)
        if (fastest_first[i].panel == panel && (!asked || strcmp(asked, fastest_first[i].unit.name) == 0) &&
            fastest_first[i].runs_here())
            return &fastest_first[i].unit;
    return NULL;
}

#else

const struct int8_unit *int8_pick(int64_t panel)
{
    (void)panel;
    return NULL;
}

#endif
