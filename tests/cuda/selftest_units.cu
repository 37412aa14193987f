// Matrix products against units.h's description, in plain integers: every number is significand x 2^(exponent -
// fraction's bits), and a cut is a shift.
#include <math.h>
#include <string.h>

#include "kernels/ptx.h"
#include "selftest.h"

/* -------------------------------------------------------------------------------- the model */

enum kind { FINITE, INFINITE, NOT_A_NUMBER };

struct number {
    enum kind kind;
    int64_t significand; /* with the sign; of an infinity only the sign counts */
    int exponent, fraction;
};

// Sign, exponent field, fraction: the bits of IEEE's types.
static struct number number_of(uint32_t bits, int exponent_bits, int fraction)
{
    int field = (int)(bits >> fraction) & ((1 << exponent_bits) - 1), bias = (1 << (exponent_bits - 1)) - 1;
    int64_t significand = bits & ((1u << fraction) - 1), sign = bits >> (fraction + exponent_bits) ? -1 : 1;
    if (field == 2 * bias + 1)
        return {significand ? NOT_A_NUMBER : INFINITE, sign, 0, fraction};
    if (field == 0)
        return {FINITE, sign * significand, 1 - bias, fraction};
    return {FINITE, sign * (significand | 1 << fraction), field - bias, fraction};
}

static struct number product_of(const struct number &x, const struct number &y)
{
    bool zero = (x.kind == FINITE && x.significand == 0) || (y.kind == FINITE && y.significand == 0);
    struct number p = {std::max(x.kind, y.kind), x.significand * y.significand, x.exponent + y.exponent,
                       x.fraction + y.fraction};
    if (p.kind == INFINITE && zero)
        p.kind = NOT_A_NUMBER;
    return p;
}

static int64_t shifted(int64_t x, int left) // towards zero
{
    if (x == 0 || left < -62)
        return 0;
    return left < 0 ? x / ((int64_t)1 << -left) : x * ((int64_t)1 << left);
}

static float sum_of(const struct number *terms, int count, int bits)
{
    int most = -1000, infinite = 0;
    for (int i = 0; i < count; i++) {
        const struct number &t = terms[i];
        int sign = t.significand < 0 ? -1 : 1;
        if (t.kind == NOT_A_NUMBER || (t.kind == INFINITE && infinite == -sign))
            return NAN;
        if (t.kind == INFINITE)
            infinite = sign;
        if (t.significand != 0)
            most = std::max(most, t.exponent);
    }
    if (infinite)
        return infinite * INFINITY;
    int64_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += shifted(terms[i].significand, terms[i].exponent - terms[i].fraction - (most - bits));
    // a float has 24 bits, and none below 2^-149
    int length = 0;
    while (length < 63 && llabs(sum) >> length)
        length++;
    int last = std::max(most - bits + std::max(length - 24, 0), -149);
    return (float)ldexp((double)shifted(sum, most - bits - last), last); // from 2^128 on infinite
}

struct inputs {
    uint16_t left[16][16], right[16][8];
    float sum[16][8];
};

static float expected(const struct inputs &in, bool half, int block, int bits, int row, int column)
{
    int exponent_bits = half ? 5 : 8, fraction = half ? 10 : 7;
    float sum = in.sum[row][column];
    for (int first = 0; first < 16; first += block) {
        struct number terms[17];
        uint32_t word;
        memcpy(&word, &sum, 4);
        terms[block] = number_of(word, 8, 23);
        for (int k = 0; k < block; k++)
            terms[k] = product_of(number_of(in.left[row][first + k], exponent_bits, fraction),
                                  number_of(in.right[first + k][column], exponent_bits, fraction));
        sum = sum_of(terms, block + 1, bits);
    }
    return sum;
}

/* -------------------------------------------------------------------------------- the stand-in */

struct one_tile {
    const struct inputs *in;
    float *out; /* [16][8] */
};

// Fragments as kernels/ptx.h lays them out.
template <enum operand O> static __global__ void multiply_tile(const struct one_tile a)
{
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    const struct inputs &in = *a.in;
    uint32_t left[4], right[1][2];
    float acc[1][4];
    for (int i = 0; i < 4; i++) {
        int row = g + i % 2 * 8, k = 2 * t + i / 2 * 8;
        left[i] = in.left[row][k] | (uint32_t)in.left[row][k + 1] << 16;
        acc[0][i] = in.sum[g + i / 2 * 8][2 * t + i % 2];
    }
    for (int i = 0; i < 2; i++)
        right[0][i] = in.right[2 * t + 8 * i][g] | (uint32_t)in.right[2 * t + 8 * i + 1][g] << 16;
    mma_tile<O, 1>(acc, left, right);
    for (int i = 0; i < 4; i++)
        a.out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = acc[0][i];
}

static bool same(float x, float y)
{
    return x == y || (isnan(x) && isnan(y));
}

struct bench {
    cudaStream_t stream;
    struct inputs *in;
    float *out;
    int block, bits;
};

template <enum operand O> static void compare(const struct bench &b, const struct inputs &in)
{
    float out[16][8];
    send(b.in, &in, 1, b.stream);
    launch(multiply_tile<O>, 1, 32, 0, {b.in, b.out}, b.stream);
    fetch(out[0], b.out, 16 * 8, b.stream);
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column++) {
            float right = expected(in, O == HALF, b.block, b.bits, row, column);
            if (!same(out[row][column], right))
                printf("row %d, column %d: %a, not %a\n", row, column, out[row][column], right);
            expect(same(out[row][column], right), O == HALF ? "a sum of halves" : "a sum of bfloats");
        }
}

static uint32_t drawn(uint32_t below)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

// Numbers whose exponent fields lie in [from, from + spread); of every 16 of them `zeros` are 0, and `wild` anything.
struct sort {
    uint32_t from, spread, zeros, wild;
};

static uint32_t drawn_number(const struct sort &s, int exponent_bits, int fraction)
{
    uint32_t which = drawn(16), all = 1u << exponent_bits << fraction;
    uint32_t sign = drawn(2) * all;
    if (which < s.zeros)
        return sign;
    if (which < s.zeros + s.wild)
        return sign | drawn(all);
    return sign | (s.from + drawn(s.spread)) << fraction | drawn(1u << fraction);
}

static void draw(struct inputs *in, bool half, const struct sort &factors, const struct sort &sums)
{
    int exponent_bits = half ? 5 : 8, fraction = half ? 10 : 7;
    for (int k = 0; k < 16; k++) {
        for (int row = 0; row < 16; row++)
            in->left[row][k] = (uint16_t)drawn_number(factors, exponent_bits, fraction);
        for (int column = 0; column < 8; column++)
            in->right[k][column] = (uint16_t)drawn_number(factors, exponent_bits, fraction);
    }
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column++) {
            uint32_t bits = drawn_number(sums, 8, 23);
            memcpy(&in->sum[row][column], &bits, 4);
        }
}

// 1 and then 16 small numbers, which count down to a card's last bit and not below it.
static void compare_one_and(const struct bench &b, float small, float sum)
{
    struct inputs in = {};
    for (int row = 0; row < 16; row++)
        in.sum[row][0] = 1;
    for (int k = 0; k < 16; k++) {
        in.right[k][0] = (uint16_t)pack_two<BFLOAT>(1, 0);
        for (int row = 0; row < 16; row++)
            in.left[row][k] = (uint16_t)pack_two<BFLOAT>(small, 0);
    }
    compare<BFLOAT>(b, in);
    expect(expected(in, false, b.block, b.bits, 0, 0) == sum, "the model's sum of 1 and 16 small numbers");
}

/* -------------------------------------------------------------------------------- codes */

struct codes {
    int8_t left[16][32], right[16][32]; /* [row][k], [column][k]: two tiles of 8 columns */
    int sum[16][16];                    /* [row][column] */
};

// sum += left right: fragments as kernels/ptx.h lays them out, each word of four k.
static __global__ void multiply_codes(struct codes *c)
{
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4, acc[2][4];
    uint32_t left[4], right[2][2];
    for (int i = 0; i < 4; i++)
        memcpy(&left[i], &c->left[g + i % 2 * 8][4 * t + i / 2 * 16], 4);
    for (int n = 0; n < 2; n++) {
        for (int i = 0; i < 2; i++)
            memcpy(&right[n][i], &c->right[n * 8 + g][4 * t + i * 16], 4);
        for (int i = 0; i < 4; i++)
            acc[n][i] = c->sum[g + i / 2 * 8][n * 8 + 2 * t + i % 2];
    }
    mma_codes(acc, left, right);
    for (int n = 0; n < 2; n++)
        for (int i = 0; i < 4; i++)
            c->sum[g + i / 2 * 8][n * 8 + 2 * t + i % 2] = acc[n][i];
}

static void compare_codes(cudaStream_t stream)
{
    struct codes in, *c = on_device<struct codes>(1), out;
    for (int i = 0; i < 16; i++) {
        for (int k = 0; k < 32; k++) {
            in.left[i][k] = (int8_t)drawn(256);
            in.right[i][k] = (int8_t)drawn(256);
        }
        for (int column = 0; column < 16; column++)
            in.sum[i][column] = (int)drawn(1u << 30) - (1 << 29);
    }
    send(c, &in, 1, stream);
    launch(multiply_codes, 1, 32, 0, c, stream);
    fetch(&out, c, 1, stream);
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 16; column++) {
            int sum = in.sum[row][column];
            for (int k = 0; k < 32; k++)
                sum += in.left[row][k] * in.right[column][k];
            expect(out.sum[row][column] == sum, "a sum of codes");
        }
    must(cudaFree(c), "cudaFree");
}

void case_units()
{
    cudaDeviceProp about;
    must(cudaGetDeviceProperties(&about, 0), "cudaGetDeviceProperties");
    bool ampere = strstr(about.name, "A100") != NULL;
    struct bench b = {new_stream(), on_device<struct inputs>(1), on_device<float>(16 * 8), ampere ? 8 : 16,
                      ampere ? 24 : 25};
    compare_one_and(b, 0x1p-24f, 1 + 0x1p-20f);
    compare_one_and(b, 0x1p-25f, ampere ? 1 : 1 + 0x1p-21f);
    compare_one_and(b, -0x1p-25f, ampere ? 1 : 1 - 0x1p-21f);
    compare_one_and(b, 0x1p-26f, 1);

    const struct sort halves[] = {{11, 5, 0, 0}, {1, 30, 3, 0}, {0, 3, 3, 0}, {30, 1, 0, 0}, {10, 8, 2, 1}};
    const struct sort bfloats[] = {{123, 5, 0, 0}, {60, 120, 3, 0}, {0, 70, 3, 0}, {186, 10, 0, 0}, {120, 8, 2, 1}};
    const struct sort sums[] = {{100, 40, 0, 0}, {127, 8, 8, 0}, {0, 2, 4, 0}, {250, 5, 4, 0}, {120, 10, 2, 2}};
    struct inputs in;
    for (int i = 0; i < 400; i++) {
        draw(&in, true, halves[i % 5], sums[i / 5 % 5]);
        compare<HALF>(b, in);
        draw(&in, false, bfloats[i % 5], sums[i / 5 % 5]);
        compare<BFLOAT>(b, in);
    }
    compare_codes(b.stream);
    must(cudaFree(b.in), "cudaFree");
    must(cudaFree(b.out), "cudaFree");
    must(cudaStreamDestroy(b.stream), "cudaStreamDestroy");
}
