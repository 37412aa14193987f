// mma_codes of host/kernels/ptx.h: products of 8-bit codes with sums of 32 bits, which are exact (PTX ISA, "Matrix
// Fragments for mma.m16n8k32"). As in matrix.cpp, operands are collected once for a warp.
#include <string.h>

#include "block.h"
#include "host/kernels/ptx.h"

enum { DEPTH = 32 };

// Byte `byte` of word `word` of lane (g, t) of the left factor is row g + 8 (word % 2), k 4t + 16 (word / 2) + byte.
static void collect_left(const struct warp &w, int8_t (*out)[DEPTH])
{
    for (int lane = 0; lane < LANES; lane++)
        for (int word = 0; word < 4; word++)
            memcpy(&out[lane / 4 + word % 2 * 8][lane % 4 * 4 + word / 2 * 16],
                   (const uint32_t *)w.offers[lane].in[1] + word, 4);
}

static void collect_right(const struct warp &w, int tile, int8_t (*out)[DEPTH])
{
    for (int lane = 0; lane < LANES; lane++)
        for (int word = 0; word < 2; word++)
            memcpy(&out[lane / 4][lane % 4 * 4 + word * 16], (const uint32_t *)w.offers[lane].in[2] + 2 * tile + word,
                   4);
}

static int product(const int8_t *row, const int8_t *column)
{
    int sum = 0;
    for (int k = 0; k < DEPTH; k++)
        sum += row[k] * column[k];
    return sum;
}

static void multiply_for_all(struct warp &w)
{
    int8_t left[16][DEPTH], right[8][DEPTH];
    collect_left(w, left);
    for (int tile = 0; tile < w.offers[0].argument; tile++) {
        collect_right(w, tile, right);
        for (int lane = 0; lane < LANES; lane++)
            for (int i = 0; i < 4; i++) {
                int *acc = (int *)w.offers[lane].in[0] + 4 * tile + i;
                *acc = (int)((unsigned)*acc + // wraps around
                             (unsigned)product(left[lane / 4 + i / 2 * 8], right[lane % 4 * 2 + i % 2]));
            }
    }
}

void standin_mma_codes(int tiles, int *acc, const uint32_t a[4], const uint32_t *b)
{
    my_offer() = {0, tiles, {acc, (void *)a, (void *)b}};
    meet(MMA, true, multiply_for_all);
}
