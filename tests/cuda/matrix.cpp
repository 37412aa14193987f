// The matrix instructions of host/kernels/ptx.h: asynchronous copies, ldmatrix and mma, with their documented
// requirements (PTX ISA: "cp.async", "ldmatrix", "mma.m16n8k16"); how mma adds is units.h's. A factor is decoded once
// for the warp.
#include <string.h>

#include "block.h"
#include "host/kernels/ptx.h"
#include "memory.h"
#include "race.h"
#include "runtime.h"

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

// Words of two numbers are left [row][pair of k] and right [pair of k][column], an order in which lanes write whole
// words; sums are [row][column]. Everything is gathered before anything is computed: a wide load right after narrow stores of its bytes would have to
// wait for them.
static void multiply_for_all(struct warp &w)
{
    static const struct units units = device_model().units;
    bool half = w.offers[0].word != 0;
    int tiles = w.offers[0].argument;
    uint32_t left_words[16][8], right_words[MOST_TILES][8][8];
    float sums[MOST_TILES][16][8];
    struct left_factor left;
    struct right_factor right;
    collect_left(w, left_words);
    if (is_zero(left_words, 16))
        return;
    for (int tile = 0; tile < tiles; tile++) {
        collect_right(w, tile, right_words[tile]);
        collect_sums(w, tile, sums[tile]);
    }
    decode_left(half, &left, left_words);
    for (int tile = 0; tile < tiles; tile++) {
        if (is_zero(right_words[tile], 8))
            continue;
        decode_right(half, &right, right_words[tile]);
        multiply(units, sums[tile], left, right);
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
