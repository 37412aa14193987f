// The matrix instructions of host/kernels/ptx.h: asynchronous copies, ldmatrix and mma, with their documented demands
// (PTX ISA: "cp.async", "ldmatrix", "mma.m16n8k16"). mma is where the time of a run goes: operands are decoded once per
// warp, and sixteen rows are summed side by side, each in the order of k.
#include <string.h>

#include "block.h"
#include "memory.h"
#include "race.h"

static bool in_shared(const void *at, size_t bytes)
{
    uintptr_t offset = (uintptr_t)at - (uintptr_t)shared_memory;
    return offset <= running.launch->shared && bytes <= running.launch->shared - offset;
}

/* ------------------------------------------------------------------------------------------------ copies */

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

/* ------------------------------------------------------------------------------------------------ ldmatrix */

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

/* ------------------------------------------------------------------------------------------------ mma */

static inline float fused(float x, float y, float z)
{
#ifdef __FMA__
    return __builtin_fmaf(x, y, z);
#else
    return x * y + z;
#endif
}

// Written so that a compiler can do many at once, subnormal numbers too.
static inline void decode_halves(float *out, const uint16_t *in, int count)
{
    for (int i = 0; i < count; i++) {
        uint32_t h = in[i], rest = h & 0x7fff, bits;
        float small = (float)(int32_t)(h & 0x3ff) * 0x1p-24f;
        memcpy(&bits, &small, 4);
        bits = rest < 0x400 ? bits : (rest << 13) + (rest < 0x7c00 ? 0x38000000u : 0x70000000u);
        bits |= (h & 0x8000) << 16;
        memcpy(&out[i], &bits, 4);
    }
}

static inline void decode_bfloats(float *out, const uint16_t *in, int count)
{
    for (int i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)in[i] << 16;
        memcpy(&out[i], &bits, 4);
    }
}

static void decode(bool half, float *out, const uint16_t *in, int count)
{
    if (half)
        decode_halves(out, in, count);
    else
        decode_bfloats(out, in, count);
}

// The left factor, [k][row].
static void left_factor(const struct warp &w, bool half, float (*out)[16])
{
    uint16_t bits[16][16];
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, t = lane % 4;
        const uint32_t *a = (const uint32_t *)w.offers[lane].in[1];
        for (int i = 0; i < 4; i++) {
            int row = g + 8 * (i & 1), k = 2 * t + 8 * (i >> 1);
            bits[k][row] = (uint16_t)a[i];
            bits[k + 1][row] = (uint16_t)(a[i] >> 16);
        }
    }
    decode(half, out[0], bits[0], 256);
}

// One tile of the right factor, [column][k].
static void right_factor(const struct warp &w, bool half, int tile, float (*out)[16])
{
    uint32_t bits[8][8];
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, t = lane % 4;
        const uint32_t *b = (const uint32_t *)w.offers[lane].in[2] + 2 * tile;
        bits[g][t] = b[0];
        bits[g][t + 4] = b[1];
    }
    decode(half, out[0], (const uint16_t *)bits, 128);
}

static void multiply(float (*__restrict sum)[16], const float (*__restrict a)[16], const float (*__restrict b)[16])
{
    enum { COLUMNS = 4 }; // as many sums as stay in registers
    for (int first = 0; first < 8; first += COLUMNS) {
        float s[COLUMNS][16];
        memcpy(s, sum[first], sizeof(s));
        for (int k = 0; k < 16; k++)
            for (int c = 0; c < COLUMNS; c++)
                for (int row = 0; row < 16; row++)
                    s[c][row] = fused(a[k][row], b[first + c][k], s[c][row]);
        memcpy(sum[first], s, sizeof(s));
    }
}

static void gather(const struct warp &w, int tile, float (*sum)[16])
{
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, t = lane % 4;
        const float *acc = (const float *)w.offers[lane].in[0] + 4 * tile;
        sum[2 * t][g] = acc[0];
        sum[2 * t + 1][g] = acc[1];
        sum[2 * t][g + 8] = acc[2];
        sum[2 * t + 1][g + 8] = acc[3];
    }
}

static void scatter(struct warp &w, int tile, const float (*sum)[16])
{
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, t = lane % 4;
        float *acc = (float *)w.offers[lane].in[0] + 4 * tile;
        acc[0] = sum[2 * t][g];
        acc[1] = sum[2 * t + 1][g];
        acc[2] = sum[2 * t][g + 8];
        acc[3] = sum[2 * t + 1][g + 8];
    }
}

static void multiply_for_all(struct warp &w)
{
    bool half = w.offers[0].word != 0;
    float left[16][16], right[8][16], sum[8][16];
    left_factor(w, half, left);
    for (int tile = 0; tile < w.offers[0].argument; tile++) {
        right_factor(w, half, tile, right);
        gather(w, tile, sum);
        multiply(sum, left, right);
        scatter(w, tile, sum);
    }
}

void standin_mma(bool half, int tiles, float *acc, const uint32_t a[4], const uint32_t *b)
{
    my_offer() = {half, tiles, {acc, (void *)a, (void *)b}};
    meet(MMA, true, multiply_for_all);
}
