/* kernels/rounded_product.cu
 *
 * Products of halves (or bfloats) that encode.cu has rounded, for weights of any kind (kernels/rounded.h), and the
 * choice of what multiplies which lanes of a program with tangents.
 *
 * Precision. A weight's 8-bit codes are exact as halves; of weights of 32 bits the rounded numbers go in alone. Long sums
 * are summed in parts (kernels/parts.h), of at least 2,048 numbers.
 *
 * Lanes (device/device.h): every number of y is one chain of sums over k, in parts that follow from K, whichever tile it
 * lies in. So the choice of tiles may depend on the number of rows.
 */
#include "kernels/parts.h"
#include "kernels/rounded.h"

enum { STAGES = 3, CHUNKS = 2 /* of 32 channels, in a stage */, X_PIECES = CHUNKS * 4 };

typedef block_cut<4, 8, 4, 2> large_cut; /* of which no second set of sums fits in registers: for a single part */

struct halves_args {
    struct rounded_args product;
    struct groups groups; /* 4 bits */
    struct parts parts;   /* in stages */
    int stages;           /* of a tap */
    int chunk_bytes;      /* of a stage's chunk of weights, in shared memory */
};

/* -------------------------------------------------------------------------------- kernel */

/* Of two planes, the first. */
template <enum operand O, enum tile_kind W> struct rounded_weights : weights<O, W == TILE_32 ? TILE_16 : W>{};

/* A stage: x's rows, then each chunk's rows of weights and their groups' slots. */
template <enum tile_kind W, class C> struct stage {
    static const int PIECES = rounded_weights<HALF, W>::PIECES, SLOT_WORDS = W == TILE_4 ? slot<C::COLUMNS>::WORDS : 0;
    static const int X_BYTES = C::ROWS * X_PIECES * 16, W_BYTES = C::COLUMNS * PIECES * 16;

    /* Of a chunk's weights. */
    static int chunk_bytes(const struct groups &g)
    {
        return W_BYTES + (1 << g.slots_log2) * SLOT_WORDS * 4;
    }

    /* The same in a kernel, where it is known beforehand but for weights of 4 bits. */
    __device__ static int chunk_bytes(const struct halves_args &a)
    {
        return W == TILE_4 ? a.chunk_bytes : W_BYTES;
    }
};

/* The first chunk of stage `number`. */
__device__ static struct place_in_k place_of(const struct halves_args &a, int number)
{
    struct place_in_k at;
    at.tap = number / a.stages;
    at.channel = (number - at.tap * a.stages) * CHUNKS * TILE_DEPTH;
    return at;
}

/* Fills stages, in the order of K. */
template <enum tile_kind W, class C> struct filler {
    typedef struct stage<W, C> L;
    struct encoded_rows<X_PIECES, C> x;
    struct w_rows<L::PIECES, C::COLUMNS, C::THREADS, weights<HALF, W>::PIECES> w;
    struct place_in_k at;

    __device__ void begin(const struct halves_args &a, int first_row, int first_column, int first_stage)
    {
        at = place_of(a, first_stage);
        x.begin(a.product, first_row);
        x.aim(a.product.taps, at.tap);
        w.begin(a.product.weights, first_column);
    }

    __device__ void fill(unsigned char *stage, const struct halves_args &a)
    {
        const struct rounded_args &p = a.product;
        x.copy(stage, p.x, p.row_pieces, at.channel / 8, p.row_pieces);
        unsigned char *rows = stage + L::X_BYTES;
#pragma unroll
        for (int i = 0; i < CHUNKS; i++, rows += L::chunk_bytes(a)) {
            w.copy(rows, p.weights, at.tap * p.chunks + at.channel / TILE_DEPTH);
            if (W == TILE_4)
                w.copy_groups((uint32_t *)(rows + L::W_BYTES), p.weights, a.groups, at);
            if (at.advance(p.chunks)) {
                x.aim(p.taps, at.tap);
                return;
            }
        }
    }
};

/* sums += chunk `number` of a stage of x times that of the weights, for the warp's rows and columns. */
template <enum operand O, enum tile_kind W, class C>
__device__ static void add_chunk(float (&sums)[C::TALL][C::WIDE][4], const unsigned char *s, int number, int x_at,
                                 int column, const struct halves_args &a, struct place_in_k at)
{
    typedef struct stage<W, C> L;
    const unsigned char *rows = s + L::X_BYTES + number * L::chunk_bytes(a);
    const struct weights_chunk chunk = {rows, &a.groups, (const uint32_t *)(rows + L::W_BYTES), L::SLOT_WORDS, at};
#pragma unroll
    for (int step = 0; step < 2; step++) {
        uint32_t left[C::TALL][4];
#pragma unroll
        for (int i = 0; i < C::TALL; i++)
            load_matrices(left[i], s + (x_at ^ (number * 2 + step) * 32) + i * 16 * X_PIECES * 16);
#pragma unroll
        for (int four = 0; four < C::WIDE / 4; four++) {
            struct fragments right;
            rounded_weights<O, W>::load(right, chunk, column + four * 32, step);
#pragma unroll
            for (int i = 0; i < C::TALL; i++)
                mma_tile<O>(*(float(*)[4][4]) & sums[i][four * 4], left[i], right.high);
        }
    }
}

/* PARTS: is there more than one? */
template <enum operand O, enum tile_kind W, class C, bool PARTS>
__global__ void __launch_bounds__(C::THREADS, C::BLOCKS) rounded_kernel(const struct halves_args a)
{
    typedef struct stage<W, C> L;
    const struct rounded_args &p = a.product;
    const int STAGE_BYTES = L::X_BYTES + CHUNKS * L::chunk_bytes(a);
    int row_tile = (int)blockIdx.x / p.column_tiles, column_tile = (int)blockIdx.x - row_tile * p.column_tiles;
    int first_row = row_tile * C::ROWS, first_column = column_tile * C::COLUMNS, all = p.taps.count * a.stages;
    int first = a.parts.shared_out ? (int)blockIdx.y * a.parts.length : 0;
    int end = a.parts.shared_out ? min(first + a.parts.length, all) : all;
    const struct warp_place<C> warp;
    int x_at = left_at<X_PIECES>(warp.row);

    struct filler<W, C> filler;
    filler.begin(a, first_row, first_column, first);
#pragma unroll 1
    for (int s = 0; s < STAGES - 1; s++) {
        if (first + s < end)
            filler.fill(shared_memory + s * STAGE_BYTES, a);
        copy_commit(); // every step closes one group, so that counting groups counts stages
    }
    float sums[C::TALL][C::WIDE][4] = {}, total[C::TALL][C::WIDE][4] = {};
    struct place_in_k at = place_of(a, first);
    int full = 0, empty = STAGES - 1; // stages to read and to fill
    for (int c = first; c < end;) {
        for (int stop = min(c + a.parts.length, end); c < stop; c++) {
            copy_wait<STAGES - 2>();
            __syncthreads(); // stage c has arrived, and all warps are done with the one that is filled next
            if (c + STAGES - 1 < end)
                filler.fill(shared_memory + empty * STAGE_BYTES, a);
            copy_commit();
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) {
                add_chunk<O, W, C>(sums, shared_memory + full * STAGE_BYTES, i, x_at, warp.column, a, at);
                if (at.advance(p.chunks))
                    break;
            }
            full = full + 1 == STAGES ? 0 : full + 1;
            empty = empty + 1 == STAGES ? 0 : empty + 1;
        }
        if (PARTS)
            add_part(total, sums);
    }
    if (PARTS && a.parts.shared_out &&
        !join_parts(a.parts, total, (int)blockIdx.x, (int)blockIdx.y, (int *)shared_memory))
        return;
    __syncthreads(); // the stages become room for the sums
    finish_sums(p.finish, PARTS ? total : sums, shared_memory, first_row + warp.row, first_column + warp.column);
}

/* -------------------------------------------------------------------------------- launchers */

/* What a block of such tiles asks for. */
template <enum tile_kind W, class C> static size_t bytes_of(const struct halves_args &a)
{
    return shared_bytes<C>(STAGES * (stage<W, C>::X_BYTES + CHUNKS * stage<W, C>::chunk_bytes(a.groups)));
}

template <enum operand O, enum tile_kind W, class C, bool PARTS>
static void start(struct device *device, const char *name, struct halves_args &a)
{
    int64_t tiles = blocks_of<C>(a.product);
    a.product.column_tiles = (int)blocks_for(a.product.weights.rows, C::COLUMNS);
    a.chunk_bytes = stage<W, C>::chunk_bytes(a.groups);
    a.parts = parts_of(device, a.product.taps.count * a.stages, tiles, C::ROWS * C::COLUMNS * (int64_t)sizeof(float));
    launch(device, name, rounded_kernel<O, W, C, PARTS>,
           dim3((unsigned)tiles, a.parts.shared_out ? (unsigned)a.parts.count : 1), C::THREADS, bytes_of<W, C>(a), a);
}

template <enum operand O, enum tile_kind W>
static void choose_cut(struct device *device, const char *name, struct halves_args &a)
{
    size_t room = shared_room(device);
    bool parts = parts_of(device, a.product.taps.count * a.stages, 1, 0).count > 1;
    bool large = !parts && bytes_of<W, large_cut>(a) <= room, middle = bytes_of<W, middle_cut>(a) <= room;
    // estimates, until they are measured: the smaller, the more is read from the L2 cache
    int64_t costs[] = {large ? cost_of<large_cut>(device, a.product, 100) : INT64_MAX,
                       middle ? cost_of<middle_cut>(device, a.product, 120) : INT64_MAX,
                       cost_of<small_cut>(device, a.product, 200)};
    if (costs[2] < costs[0] && costs[2] < costs[1])
        start<O, W, small_cut, true>(device, name, a);
    else if (costs[1] < costs[0])
        start<O, W, middle_cut, true>(device, name, a);
    else
        start<O, W, large_cut, false>(device, name, a);
}

template <enum operand O>
static void choose_weights(struct device *device, const struct product *p, struct halves_args &a)
{
    switch (tile_layout_of(p->weight).kind) {
    case TILE_4:
        return choose_cut<O, TILE_4>(device, p->name, a);
    case TILE_8:
        return choose_cut<O, TILE_8>(device, p->name, a);
    case TILE_16:
        return choose_cut<O, TILE_16>(device, p->name, a);
    case TILE_32:
        return choose_cut<O, TILE_32>(device, p->name, a);
    }
}

struct rounded_args rounded_args_of(struct device *device, const struct product *p, int64_t first, int64_t count)
{
    struct rounded_args a = {};
    struct gpu_work work = gpu_work_of(device, p->x, NULL);
    int64_t positions = p->x.height * p->x.width;
    a.finish = finish_of(device, p->y, p->weight, p->epilogue, first, count);
    a.taps = p->taps;
    a.x = (const uint4 *)((char *)tensor_data(device->work) + first * positions * work.numbers * 2);
    a.row_pieces = (int)work.numbers / 8;
    a.weights = packed_rows_of(p->weight);
    a.chunks = (int)tile_layout_of(p->weight).chunks;
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
        struct halves_args a = {};
        a.product = rounded_args_of(device, p, first, count);
        a.groups = groups_of(p->weight);
        a.stages = (int)blocks_for(a.product.chunks, CHUNKS);
        if (cuda_of(device)->operand == BFLOAT)
            choose_weights<BFLOAT>(device, p, a);
        else
            choose_weights<HALF>(device, p, a);
    }
    if (halves < lanes)
        coded_product(device, p, halves);
}
