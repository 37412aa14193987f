/* kernels/rounded_product.cu
 *
 * Products of halves (or bfloats) that encode.cu has rounded, for weights of any kind (kernels/rounded.h), and the
 * choice of what multiplies which lanes of a program with tangents.
 *
 * Precision. A weight's 8-bit codes are exact as halves; of weights of 32 bits the rounded numbers go in alone. A
 * matrix unit cuts what it adds, always towards zero, which would show in long sums: so K is summed in parts of 2,048
 * numbers, and parts are added in float.
 *
 * Lanes (device/device.h): every number of y is one chain of sums over k, in parts that follow from K, whichever tile it
 * lies in. So the choice of tiles may depend on the number of rows.
 */
#include "kernels/rounded.h"

enum { STAGES = 3, CHUNKS = 2 /* of 32 channels, in a stage */, X_PIECES = CHUNKS * 4, PART = 2048 / 64 /* stages */ };

typedef cut<4, 8, 4, 2> large_cut; /* of which no second set of sums fits in registers: for a single part */

/* -------------------------------------------------------------------------------- kernel */

/* A stage: x's rows, then each chunk's rows of weights. */
template <enum tile_kind W, class C> struct stage {
    static const int CHUNK_BYTES = W == TILE_4 ? 16 : W == TILE_8 ? 32 : W == TILE_16 ? 64 : 128; /* in memory */
    static const int W_PIECES = (CHUNK_BYTES > 64 ? 64 : CHUNK_BYTES) / 16;
    static const int X_BYTES = C::ROWS * X_PIECES * 16, W_BYTES = C::COLUMNS * W_PIECES * 16;
    static const int BYTES = X_BYTES + CHUNKS * W_BYTES;
};

/* Fills stages, in the order of K. */
template <enum tile_kind W, class C> struct filler {
    typedef struct stage<W, C> L;
    static const int STEP = C::THREADS / L::W_PIECES, COUNT = (C::COLUMNS + STEP - 1) / STEP;
    struct encoded_rows<X_PIECES, C> x;
    const unsigned char *weights; /* this thread's piece of its first row */
    int columns;                  /* of its rows of weights, those that exist */
    int tap, chunk;

    __device__ void begin(const struct rounded_args &a, int first_row, int first_column)
    {
        x.begin(a, first_row);
        int row = first_column + (int)threadIdx.x / L::W_PIECES;
        weights = a.weights + row * a.row_bytes + (int)threadIdx.x % L::W_PIECES * 16;
        columns = (a.finish.packed - row + STEP - 1) / STEP;
        tap = chunk = 0;
    }

    __device__ void copy_weights(unsigned char *to, const struct rounded_args &a)
    {
        int piece = (int)threadIdx.x % L::W_PIECES;
        const unsigned char *from = weights + (tap * a.chunks + chunk) * L::CHUNK_BYTES;
        to += piece_place<L::W_PIECES>((int)threadIdx.x / L::W_PIECES, piece) * 16;
        for (int i = 0; i < COUNT; i++) {
            bool inside = i < columns;
            if (C::COLUMNS % STEP == 0 || (int)threadIdx.x / L::W_PIECES + i * STEP < C::COLUMNS)
                copy_async<16>(to + i * C::THREADS * 16, inside ? from + i * STEP * a.row_bytes : a.weights, inside);
        }
    }

    __device__ void fill(unsigned char *stage, const struct rounded_args &a)
    {
        x.copy(stage, a.x, a.row_pieces, chunk * 4, a.row_pieces);
        for (int i = 0; i < CHUNKS && chunk < a.chunks; i++, chunk++)
            copy_weights(stage + L::X_BYTES + i * L::W_BYTES, a);
        if (chunk < a.chunks)
            return;
        chunk = 0;
        x.aim(a.taps, ++tap);
    }
};

/* Four 16 x 8 tiles of the weights for both steps of a chunk. `at`: right_at of the first. */
template <enum operand O, enum tile_kind W, int PIECES>
__device__ static void load_weights(uint32_t (&to)[2][4][2], const unsigned char *w, int at)
{
    uint32_t words[4];
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
        if (W == TILE_8) { // a piece for each step; 16 rows are four lines, after which pieces have changed places
            load_matrices(words, w + (at ^ pair * 16) + pair * 16 * PIECES * 16);
            for (int i = 0; i < 4; i++)
                widen_codes<O>(words[i], to[i % 2][pair * 2 + i / 2]);
        } else {
            for (int step = 0; step < 2; step++) {
                load_matrices(words, w + (at ^ step * 32) + pair * 16 * PIECES * 16);
                for (int i = 0; i < 4; i++)
                    to[step][pair * 2 + i / 2][i % 2] = words[i];
            }
        }
    }
}

/* sums += a stage of x times a stage of the weights, for the warp's rows and columns. `chunks` have arrived. */
template <enum operand O, enum tile_kind W, class C>
__device__ static void add_stage(float (&sums)[C::TALL][C::WIDE][4], const unsigned char *s, int x_at, int w_at,
                                 int chunks)
{
    typedef struct stage<W, C> L;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        if (chunk >= chunks)
            break;
        uint32_t left[2][C::TALL][4], right[2][4][2];
#pragma unroll
        for (int step = 0; step < 2; step++)
#pragma unroll
            for (int i = 0; i < C::TALL; i++)
                load_matrices(left[step][i], s + (x_at ^ (chunk * 2 + step) * 32) + i * 16 * X_PIECES * 16);
#pragma unroll
        for (int four = 0; four < C::WIDE / 4; four++) {
            const unsigned char *w = s + L::X_BYTES + chunk * L::W_BYTES + four * 32 * L::W_PIECES * 16;
            load_weights<O, W, L::W_PIECES>(right, w, w_at);
#pragma unroll
            for (int step = 0; step < 2; step++)
#pragma unroll
                for (int i = 0; i < C::TALL; i++)
                    mma_tile<O>(*(float(*)[4][4]) & sums[i][four * 4], left[step][i], right[step]);
        }
    }
}

/* total += part, which begins anew. */
template <class C>
__device__ static void add_part(float (&total)[C::TALL][C::WIDE][4], float (&part)[C::TALL][C::WIDE][4])
{
#pragma unroll
    for (int i = 0; i < C::TALL; i++)
#pragma unroll
        for (int n = 0; n < C::WIDE; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                total[i][n][j] += part[i][n][j];
                part[i][n][j] = 0;
            }
}

/* PARTS: is there more than one? */
template <enum operand O, enum tile_kind W, class C, bool PARTS>
__global__ void __launch_bounds__(C::THREADS) rounded_kernel(const struct rounded_args a)
{
    typedef struct stage<W, C> L;
    int row_tile = (int)blockIdx.x / a.column_tiles, column_tile = (int)blockIdx.x - row_tile * a.column_tiles;
    int first_row = row_tile * C::ROWS, first_column = column_tile * C::COLUMNS;
    const struct warp_place<C> warp;
    int x_at = left_at<X_PIECES>(warp.row), w_at = right_at<L::W_PIECES>(warp.column);

    struct filler<W, C> filler;
    filler.begin(a, first_row, first_column);
    float sums[C::TALL][C::WIDE][4] = {}, total[C::TALL][C::WIDE][4] = {};
    int stages = a.taps.count * ((a.chunks + CHUNKS - 1) / CHUNKS);
    for (int c = 0; c < STAGES - 1; c++) {
        if (c < stages)
            filler.fill(shared_memory + c * L::BYTES, a);
        copy_commit(); // every step closes one group, so that counting groups counts stages
    }
    int chunk = 0, full = 0, empty = STAGES - 1, left_of_part = PART;
    for (int c = 0; c < stages; c++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); // stage c has arrived, and all warps are done with the one that is filled next
        if (c + STAGES - 1 < stages)
            filler.fill(shared_memory + empty * L::BYTES, a);
        copy_commit();
        add_stage<O, W, C>(sums, shared_memory + full * L::BYTES, x_at, w_at, a.chunks - chunk);
        full = full + 1 == STAGES ? 0 : full + 1;
        empty = empty + 1 == STAGES ? 0 : empty + 1;
        chunk = chunk + CHUNKS >= a.chunks ? 0 : chunk + CHUNKS;
        if (PARTS && --left_of_part == 0 && c + 1 < stages) {
            add_part<C>(total, sums);
            left_of_part = PART;
        }
    }
    if (PARTS && stages > PART)
        add_part<C>(sums, total);
    __syncthreads(); // the stages become room for the sums
    finish_sums<C::TALL, C::WIDE>(a.finish, sums, shared_memory, first_row + warp.row, first_column + warp.column);
}

/* -------------------------------------------------------------------------------- launchers */

template <enum operand O, enum tile_kind W, class C, bool PARTS>
static void start(struct device *device, const struct product *p, struct rounded_args &a)
{
    a.column_tiles = (int)blocks_for(a.finish.packed, C::COLUMNS);
    launch(device, p->name, rounded_kernel<O, W, C, PARTS>, dim3((unsigned)blocks_of<C>(a)), C::THREADS,
           shared_bytes<C>(STAGES * stage<W, C>::BYTES), a);
}

/* Does a block of such tiles find room? */
template <enum tile_kind W, class C> static bool fits(const struct device *device)
{
    return shared_bytes<C>(STAGES * stage<W, C>::BYTES) <= shared_room(device);
}

template <enum operand O, enum tile_kind W>
static void choose_cut(struct device *device, const struct product *p, struct rounded_args &a)
{
    bool parts = a.taps.count * ((a.chunks + CHUNKS - 1) / CHUNKS) > PART;
    bool large = !parts && fits<W, large_cut>(device), middle = fits<W, middle_cut>(device);
    // estimates, until they are measured: the smaller, the more is read from the L2 cache
    int64_t costs[] = {large ? cost_of<large_cut>(device, a, 100) : INT64_MAX,
                       middle ? cost_of<middle_cut>(device, a, 120) : INT64_MAX, cost_of<small_cut>(device, a, 200)};
    if (costs[2] < costs[0] && costs[2] < costs[1])
        start<O, W, small_cut, true>(device, p, a);
    else if (costs[1] < costs[0])
        start<O, W, middle_cut, true>(device, p, a);
    else
        start<O, W, large_cut, false>(device, p, a);
}

template <enum operand O>
static void choose_weights(struct device *device, const struct product *p, struct rounded_args &a)
{
    switch (tile_layout_of(p->weight).kind) {
    case TILE_4:
        return;
    case TILE_8:
        return choose_cut<O, TILE_8>(device, p, a);
    case TILE_16:
        return choose_cut<O, TILE_16>(device, p, a);
    case TILE_32:
        return choose_cut<O, TILE_32>(device, p, a);
    }
}

struct rounded_args rounded_args_of(struct device *device, const struct product *p, int64_t first, int64_t count)
{
    struct rounded_args a = {};
    struct tile_layout l = tile_layout_of(p->weight);
    struct gpu_work work = gpu_work_of(device, p->x, NULL);
    int64_t positions = p->x.height * p->x.width;
    a.finish = finish_of(device, p->y, p->weight, p->epilogue, first, count);
    a.taps = p->taps;
    a.x = (const uint4 *)((char *)tensor_data(device->work) + first * positions * work.numbers * 2);
    a.row_pieces = (int)work.numbers / 8;
    a.weights = (const unsigned char *)p->weight->data;
    a.row_bytes = l.row_bytes;
    a.chunks = (int)l.chunks;
    return a;
}

/* A tangent's factors come from its primal, whose launch is an earlier one. */
void rounded_product(struct device *device, const struct product *p)
{
    int64_t lanes = p->y.lanes, halves = device->encodes ? primal_lanes(device, p->y) : lanes;
    encode_halves(device, p->x, 0, halves);
    for (int64_t first = 0, count; first < halves; first += count) {
        count = launch_lanes(device, p->y, p->epilogue.act, first);
        count = count < halves - first ? count : halves - first;
        struct rounded_args a = rounded_args_of(device, p, first, count);
        if (cuda_of(device)->operand == BFLOAT)
            choose_weights<BFLOAT>(device, p, a);
        else
            choose_weights<HALF>(device, p, a);
    }
    if (halves < lanes)
        coded_product(device, p, halves);
}
