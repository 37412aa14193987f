/* peaks [THREADS]
 *
 * What this processor's units reach at most: products whose factors stay in registers, with as many independent sums
 * as hide an instruction's latency. Prints a line of JSON for each unit that the processor has: operations (a
 * multiplication and an addition are two) a nanosecond of one core, the best and the median of many short runs, with THREADS
 * (default 1) at once. Takes three seconds. Names of integer units are those of device/cpu/int8.h.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/pool.h"
#include "helper.h"

// older compilers lack the intrinsics
#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AVX2     __attribute__((target("avx2,fma")))
#define AVX_VNNI __attribute__((target("avx2,fma,avxvnni")))
#define AVX512   __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")))
#define AMX      __attribute__((target("amx-tile,amx-int8,amx-bf16")))

/* Independent sums, which with both factors fit into AVX2's sixteen registers. */
enum { SUMS = 12, MOST_BYTES = SUMS * 64 };

/* Each runs `rounds` rounds: SUMS products a round, of tiles TILES. The sums begin with different numbers and are written,
 * so that the compiler computes all of them. */
AVX2 static void fma256(int64_t rounds, void *out)
{
    __m256 sums[SUMS], x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(0.25f);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm256_set1_ps((float)i);
    for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm256_fmadd_ps(x, y, sums[i]);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        _mm256_storeu_ps((float *)out + i * 8, sums[i]);
}

AVX512 static void fma512(int64_t rounds, void *out)
{
    __m512 sums[SUMS], x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(0.25f);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm512_set1_ps((float)i);
    for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm512_fmadd_ps(x, y, sums[i]);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        _mm512_storeu_ps((float *)out + i * 16, sums[i]);
}

/* Pairs of products in 16 bits, pairs of these in 32, and the addition: three instructions. */
AVX2 static void pairs256(int64_t rounds, void *out)
{
    __m256i sums[SUMS], x = _mm256_set1_epi8(3), y = _mm256_set1_epi8(-2), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm256_set1_epi32(i);
    for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++) {
            __asm__("" : "+x"(x)); // may be another factor now: the products are computed each time
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones));
        }
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        _mm256_storeu_si256((__m256i *)out + i, sums[i]);
}

AVX_VNNI static void vnni256(int64_t rounds, void *out)
{
    __m256i sums[SUMS], x = _mm256_set1_epi8(3), y = _mm256_set1_epi8(-2);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm256_set1_epi32(i);
    for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm256_dpbusd_avx_epi32(sums[i], x, y);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        _mm256_storeu_si256((__m256i *)out + i, sums[i]);
}

AVX512 static void vnni512(int64_t rounds, void *out)
{
    __m512i sums[SUMS], x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(-2);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm512_set1_epi32(i);
    for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm512_dpbusd_epi32(sums[i], x, y);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        _mm512_storeu_si512((__m512i *)out + i, sums[i]);
}

AVX512 static void bf16_512(int64_t rounds, void *out)
{
    __m512 sums[SUMS];
    __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f));
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm512_set1_ps((float)i);
    for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm512_dpbf16_ps(sums[i], x, x);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++)
        _mm512_storeu_ps((float *)out + i * 16, sums[i]);
}

/* Two by two tiles of 16 rows of 64 bytes, as many sums as tiles leave room for. */
enum { TILES = 4 };

struct tile_shapes {
    uint8_t palette, first_row, reserved[14];
    uint16_t bytes_of_row[16];
    uint8_t rows[16];
};

static const struct tile_shapes shapes = {
    1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

AMX static void begin_tiles(void)
{
    _tile_loadconfig(&shapes);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
}

AMX static void tiles_int8(int64_t rounds, void *out)
{
    (void)out; // the compiler leaves out no instruction on tiles
    begin_tiles();
    for (int64_t round = 0; round < rounds; round++) {
        _tile_dpbsud(0, 4, 6);
        _tile_dpbsud(1, 4, 7);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
    }
    _tile_release();
}

AMX static void tiles_bf16(int64_t rounds, void *out)
{
    (void)out;
    begin_tiles();
    for (int64_t round = 0; round < rounds; round++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
}

/* -------------------------------------------------------------------------------- what this processor has */

/* A bit of cpuid's leaf 7, of eax or edx: the compilers' names for these came after their intrinsics. */
static bool has_leaf7(int subleaf, int bit_of_eax, int bit_of_edx)
{
    unsigned eax = 0, ebx, ecx = (unsigned)subleaf, edx = 0;
    __asm__("cpuid" : "=a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx) : "a"(7));
    return bit_of_eax >= 0 ? eax >> bit_of_eax & 1 : edx >> bit_of_edx & 1;
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx_vnni(void)
{
    return has_avx2() && has_leaf7(1, 4, -1);
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

static bool has_avx512_vnni(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

static bool has_avx512_bf16(void)
{
    return has_avx512() && has_leaf7(1, 5, -1);
}

/* Linux lets a process use the tiles once it has asked. */
static bool has_tiles(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return has_leaf7(0, -1, 24) && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static bool has_amx_int8(void)
{
    return has_leaf7(0, -1, 25) && has_tiles();
}

static bool has_amx_bf16(void)
{
    return has_leaf7(0, -1, 22) && has_tiles();
}

struct unit {
    const char *numbers, *name;
    int64_t operations; /* of a round */
    void (*run)(int64_t rounds, void *out);
    bool (*runs_here)(void);
};

static const struct unit units[] = {
    {"fp32", "avx2", SUMS * 8 * 2, fma256, has_avx2},
    {"fp32", "avx512", SUMS * 16 * 2, fma512, has_avx512},
    {"bf16", "avx512-bf16", SUMS * 32 * 2, bf16_512, has_avx512_bf16},
    {"bf16", "amx", TILES * 16 * 16 * 32 * 2, tiles_bf16, has_amx_bf16},
    {"int8", "avx2", SUMS * 32 * 2, pairs256, has_avx2},
    {"int8", "avx-vnni", SUMS * 32 * 2, vnni256, has_avx_vnni},
    {"int8", "avx512-vnni", SUMS * 64 * 2, vnni512, has_avx512_vnni},
    {"int8", "amx", TILES * 16 * 16 * 64 * 2, tiles_int8, has_amx_int8},
};

/* -------------------------------------------------------------------------------- runs */

enum { RUNS = 40 };

struct work {
    const struct unit *unit;
    int64_t rounds;
};

static void run_task(void *arg, int64_t task, int thread)
{
    (void)task, (void)thread;
    const struct work *w = arg;
    char out[MOST_BYTES];
    w->unit->run(w->rounds, out);
}

/* Operations a nanosecond of one core. */
static double rate(struct pool *pool, const struct work *w)
{
    double began = clock_seconds();
    pool_run(pool, pool_threads(pool), run_task, (void *)w);
    return (double)(w->rounds * w->unit->operations) / (clock_seconds() - began) * 1e-9;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(struct pool *pool, const struct unit *unit)
{
    struct work w = {unit, 100000};
    double rates[RUNS];
    w.rounds = (int64_t)(rate(pool, &w) * 1e9 * 0.01 / (double)unit->operations) + 1; // 10 ms
    for (int i = 0; i < RUNS; i++)
        rates[i] = rate(pool, &w);
    qsort(rates, RUNS, sizeof *rates, ascending);
    printf("{\"numbers\": \"%s\", \"unit\": \"%s\", \"threads\": %d, \"best\": %.1f, \"median\": %.1f}\n",
           unit->numbers, unit->name, pool_threads(pool), rates[RUNS - 1], rates[RUNS / 2]);
    fflush(stdout);
}

static struct error measure_all(int threads)
{
    struct pool *pool;
    bool here[sizeof units / sizeof *units];
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        here[i] = units[i].runs_here(); // threads that begin later may use what has been asked for
    TRY(pool_open(&pool, threads));
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (here[i])
            measure(pool, &units[i]);
    pool_close(pool);
    return ok();
}

#else

static struct error measure_all(int threads)
{
    (void)threads;
    return error_input("no unit of this processor, or of this compiler, is known");
}

#endif

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    if (argc > 2 || threads < 1) {
        fprintf(stderr, "usage: peaks [THREADS]\n");
        return ERROR_BAD_INPUT;
    }
    return helper_end("peaks", measure_all(threads));
}
