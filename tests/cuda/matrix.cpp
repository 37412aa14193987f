// The matrix instructions of host/kernels/ptx.h: asynchronous copies, ldmatrix and mma, with their documented
// requirements (PTX ISA: "cp.async", "ldmatrix", "mma.m16n8k16"). A run spends its time in mma: operands are decoded
// once per warp, and eight columns are summed side by side, each in the order of k with a fused multiply-add.
#include <string.h>
#if defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#endif

#include "block.h"
#include "host/kernels/ptx.h"
#include "memory.h"
#include "race.h"

static bool in_shared(const void *at, size_t bytes)
{
    uintptr_t offset = (uintptr_t)at - (uintptr_t)shared_memory;
    return offset <= running.launch->shared && bytes <= running.launch->shared - offset;
}

/* -------------------------------------------------------------------------------- copies */

void standin_copy_async(void *shared, const void *global, int bytes, bool inside)
{
    struct thread &t = *running.current;
    size_t size = (size_t)bytes;
    if (((uintptr_t)shared | (uintptr_t)global) % size)
        block_fault("copy_async<%d>: the addresses are not aligned to it", bytes);
    if (!in_shared(shared, size))
        block_fault("copy_async: the target is not in the launch's shared memory");
    if (!device_holds(global, size))
        block_fault("copy_async: the source %p is not in device memory", global);
    struct copy c = {(char *)shared, (uint32_t)bytes, t.groups, {}};
    if (inside) {
        race_read((uintptr_t)global, size);
        memcpy(c.data, global, size);
    }
    race_promise((uintptr_t)shared, size);
    t.copies.push_back(c);
}

void standin_copy_commit()
{
    running.current->groups++;
}

void standin_copy_wait(int pending)
{
    struct thread &t = *running.current;
    size_t landed = 0;
    for (; landed < t.copies.size() && t.copies[landed].group + (uint32_t)pending < t.groups; landed++) {
        const struct copy &c = t.copies[landed];
        memcpy(c.to, c.data, c.bytes);
        race_land((uintptr_t)c.to, c.bytes);
    }
    t.copies.erase(t.copies.begin(), t.copies.begin() + (long)landed);
}

/* -------------------------------------------------------------------------------- ldmatrix */

static void hand_out_matrices(struct warp &w)
{
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, t = lane % 4;
        uint32_t *out = (uint32_t *)w.offers[lane].in[1];
        for (int m = 0; m < 4; m++)
            memcpy(&out[m], (const char *)w.offers[8 * m + g].in[0] + 4 * t, 4);
    }
}

static void hand_out_transposed(struct warp &w)
{
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, t = lane % 4;
        uint32_t *out = (uint32_t *)w.offers[lane].in[1];
        for (int m = 0; m < 4; m++) {
            const uint16_t *even = (const uint16_t *)w.offers[8 * m + 2 * t].in[0];
            const uint16_t *odd = (const uint16_t *)w.offers[8 * m + 2 * t + 1].in[0];
            out[m] = (uint32_t)even[g] | (uint32_t)odd[g] << 16;
        }
    }
}

void standin_load_matrices(uint32_t out[4], const void *row, bool transposed)
{
    if ((uintptr_t)row % 16)
        block_fault("load_matrices: the row is not aligned to 16 bytes");
    if (!in_shared(row, 16))
        block_fault("load_matrices: the row is not in the launch's shared memory");
    race_read((uintptr_t)row, 16);
    my_offer().in[0] = (void *)row;
    my_offer().in[1] = out;
    meet(LOAD_MATRICES, true, transposed ? hand_out_transposed : hand_out_matrices);
}

/* -------------------------------------------------------------------------------- mma */

enum { MOST_TILES = 32 };

// Words of two numbers: left [row][pair of k], right [pair of k][column], an order in which lanes write whole words.
// Decoded: left [row][k], right [k][column]; sums [row][column].
#if defined(__FMA__) && defined(__F16C__)

static void decode_left(bool half, float (*out)[16], const uint32_t (*in)[8])
{
    for (int row = 0; row < 16; row++)
        for (int i = 0; i < 8; i += 4) {
            __m128i w = _mm_loadu_si128((const __m128i *)&in[row][i]);
            __m256 x = half ? _mm256_cvtph_ps(w) : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(w), 16));
            _mm256_storeu_ps(&out[row][2 * i], x);
        }
}

// Eight 32-bit numbers below 65536, as halves.
static inline __m256 from_halves(__m256i w)
{
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}

static void decode_right(bool half, float (*out)[8], const uint32_t (*in)[8])
{
    for (int i = 0; i < 8; i++) {
        __m256i w = _mm256_loadu_si256((const __m256i *)in[i]);
        __m256i even = _mm256_slli_epi32(w, 16), odd = _mm256_andnot_si256(_mm256_set1_epi32(0xffff), w);
        _mm256_storeu_ps(out[2 * i], half ? from_halves(_mm256_srli_epi32(even, 16)) : _mm256_castsi256_ps(even));
        _mm256_storeu_ps(out[2 * i + 1], half ? from_halves(_mm256_srli_epi32(odd, 16)) : _mm256_castsi256_ps(odd));
    }
}

static void multiply(float (*sum)[8], const float (*left)[16], const float (*right)[8])
{
    enum { ROWS = 8 }; // their sums stay in registers
    for (int first = 0; first < 16; first += ROWS) {
        __m256 s[ROWS];
        for (int i = 0; i < ROWS; i++)
            s[i] = _mm256_loadu_ps(sum[first + i]);
        for (int k = 0; k < 16; k++) {
            __m256 w = _mm256_loadu_ps(right[k]);
            for (int i = 0; i < ROWS; i++)
                s[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(&left[first + i][k]), w, s[i]);
        }
        for (int i = 0; i < ROWS; i++)
            _mm256_storeu_ps(sum[first + i], s[i]);
    }
}

#else

static float2 decode(bool half, uint32_t word)
{
    return half ? unpack_two<HALF>(word) : unpack_two<BFLOAT>(word);
}

static void decode_left(bool half, float (*out)[16], const uint32_t (*in)[8])
{
    for (int row = 0; row < 16; row++)
        for (int i = 0; i < 8; i++) {
            float2 two = decode(half, in[row][i]);
            out[row][2 * i] = two.x;
            out[row][2 * i + 1] = two.y;
        }
}

static void decode_right(bool half, float (*out)[8], const uint32_t (*in)[8])
{
    for (int i = 0; i < 8; i++)
        for (int column = 0; column < 8; column++) {
            float2 two = decode(half, in[i][column]);
            out[2 * i][column] = two.x;
            out[2 * i + 1][column] = two.y;
        }
}

static void multiply(float (*sum)[8], const float (*left)[16], const float (*right)[8])
{
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++)
                sum[row][column] = fmaf(left[row][k], right[k][column], sum[row][column]);
}

#endif

// Padding of a tile: it adds nothing, so it is not computed (0 times infinity is then not NaN).
static bool is_zero(const uint32_t (*words)[8], int rows)
{
    uint32_t any = 0;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 8; j++)
            any |= words[i][j];
    return any == 0;
}

static void collect_left(const struct warp &w, uint32_t (*out)[8])
{
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, t = lane % 4;
        const uint32_t *a = (const uint32_t *)w.offers[lane].in[1];
        out[g][t] = a[0];
        out[g + 8][t] = a[1];
        out[g][t + 4] = a[2];
        out[g + 8][t + 4] = a[3];
    }
}

static void collect_right(const struct warp &w, int tile, uint32_t (*out)[8])
{
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, t = lane % 4;
        const uint32_t *b = (const uint32_t *)w.offers[lane].in[2] + 2 * tile;
        out[t][g] = b[0];
        out[t + 4][g] = b[1];
    }
}

static void collect_sums(const struct warp &w, int tile, float (*sum)[8])
{
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, t = lane % 4;
        const float *acc = (const float *)w.offers[lane].in[0] + 4 * tile;
        memcpy(&sum[g][2 * t], &acc[0], 8);
        memcpy(&sum[g + 8][2 * t], &acc[2], 8);
    }
}

static void hand_out_sums(struct warp &w, int tile, const float (*sum)[8])
{
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, t = lane % 4;
        float *acc = (float *)w.offers[lane].in[0] + 4 * tile;
        memcpy(&acc[0], &sum[g][2 * t], 8);
        memcpy(&acc[2], &sum[g + 8][2 * t], 8);
    }
}

// Everything is gathered before anything is computed: a wide load right after narrow stores of its bytes would have to
// wait for them.
static void multiply_for_all(struct warp &w)
{
    bool half = w.offers[0].word != 0;
    int tiles = w.offers[0].argument;
    uint32_t left_words[16][8], right_words[MOST_TILES][8][8];
    float left[16][16], right[16][8], sums[MOST_TILES][16][8];
    collect_left(w, left_words);
    if (is_zero(left_words, 16))
        return;
    for (int tile = 0; tile < tiles; tile++) {
        collect_right(w, tile, right_words[tile]);
        collect_sums(w, tile, sums[tile]);
    }
    decode_left(half, left, left_words);
    for (int tile = 0; tile < tiles; tile++) {
        if (is_zero(right_words[tile], 8))
            continue;
        decode_right(half, right, right_words[tile]);
        multiply(sums[tile], left, right);
    }
    for (int tile = 0; tile < tiles; tile++)
        hand_out_sums(w, tile, sums[tile]);
}

void standin_mma(bool half, int tiles, float *acc, const uint32_t a[4], const uint32_t *b)
{
    if (tiles > MOST_TILES)
        block_fault("mma_tile: %d tiles at a time", tiles);
    my_offer() = {half, tiles, {acc, (void *)a, (void *)b}};
    meet(MMA, true, multiply_for_all);
}
