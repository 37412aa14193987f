/* kernels/product.cu
 *
 * Linear layers and convolutions: one tiled kernel.
 *
 * Idea. y [M, N] = x [M, K] Wt, M = lanes x positions, K = taps x channels. A convolution is the same product with a
 * left factor that is never stored (kernels/product.h). K is processed in chunks of 32 channels of one tap, so a chunk
 * of a row is 128 contiguous bytes.
 *
 *     global memory ── copy_async, STAGES ahead ─► shared: x floats, weights still packed
 *     shared ── float4 and ldmatrix ─► registers: x split into pairs, codes widened ─► mma ─► float accumulators
 *     accumulators, part by part (kernels/parts.h) ─► total ─► kernels/epilogue.h ─► y
 *
 * Weights reach the matrix units as they are in memory, 8 or 4 bits wide; nothing is ever unpacked into memory.
 * src/device/tiles.h describes how a row is laid out so that a lane finds its four k with one load.
 *
 * Lanes (device/device.h): every number of y is one chain of sums over k, in parts that follow from K, whichever tile
 * it lies in. So the choice of tiles may depend on the number of rows.
 */
#include "kernels/operands.h"
#include "kernels/parts.h"

/* -------------------------------------------------------------------------------- kernel */

struct product_args {
    struct finish finish;
    struct view<const float> x;
    struct taps taps;
    struct packed_rows weights;
    struct groups groups; /* 4 bits */
    struct parts parts;
    int chunks; /* of a tap's channels */
    int column_tiles;
    int stage_bytes;
};

/* How a block is cut, two warps high, each with TALL x WIDE tiles of the matrix units. */
template <operand O, tile_kind W, int ROWS_, int COLUMNS_> struct cut {
    static const int ROWS = ROWS_, COLUMNS = COLUMNS_;
    static const int TALL = ROWS / 32, WIDE = 4, WARPS = 2 * COLUMNS / 32, THREADS = WARPS * 32;
    /* Blocks that share a processor, so that one multiplies while another waits or writes its sums. A large one takes
     * more than half of the registers. */
    static const int BLOCKS = ROWS == 128 ? 1 : W == TILE_32 ? 2 : 3;
    static const bool SHARES = ROWS < 128; /* out its parts: large tiles are taken where there are enough of them */
    /* Chunks under way: two ahead of the one in use, or one where a chunk has half as many products again. */
    static const int STAGES = W == TILE_32 ? 2 : 3;
    static const int PIECES = weights<O, W>::PIECES, SLOT_WORDS = W == TILE_4 ? slot<COLUMNS>::WORDS : 0;
    static const int X_BYTES = ROWS * DEPTH * 4, W_BYTES = COLUMNS * PIECES * 16; /* of a stage; then the slots */

    static int stage_bytes(const struct groups &g)
    {
        return X_BYTES + W_BYTES + (1 << g.slots_log2) * SLOT_WORDS * 4;
    }

    static int shared_bytes(const struct groups &g)
    {
        const int stages = STAGES * stage_bytes(g), room = finish_room<TALL, WIDE, WARPS>::BYTES;
        return stages > room ? stages : room;
    }
};

/* What a thread copies of every chunk. */
template <class C, bool ALIGNED> struct feeder {
    struct x_rows<C::ROWS, C::THREADS, ALIGNED> x;
    struct w_rows<C::PIECES, C::COLUMNS, C::THREADS> w;
    struct place_in_k at;
    int chunk; /* the next one, of all taps */

    __device__ void begin(const struct product_args &a, int first_row, int first_column, int first_chunk)
    {
        chunk = first_chunk;
        at.begin(chunk, a.chunks);
        x.begin(a.x, a.taps, first_row);
        x.aim(a.x, a.taps, at.tap);
        w.begin(a.weights, first_column);
    }

    /* Enqueues the next chunk's copies into a stage, if it lies before `end`. Every call closes one group, so that
     * counting groups counts chunks. */
    __device__ void copy(unsigned char *stage, const struct product_args &a, int end)
    {
        if (chunk < end) {
            unsigned char *rows = stage + C::X_BYTES;
            x.copy((float *)stage, a.x, at.channel);
            w.copy(rows, a.weights, chunk);
            if (C::SLOT_WORDS > 0)
                w.copy_groups((uint32_t *)(rows + C::W_BYTES), a.weights, a.groups, at);
            chunk++;
            if (at.advance(a.chunks))
                x.aim(a.x, a.taps, at.tap);
        }
        copy_commit();
    }
};

/* sums += a stage's chunk of x times its chunk of the weights, for the warp's rows and columns. */
template <enum operand O, enum tile_kind W, class C>
__device__ static void add_chunk(float (&sums)[C::TALL][C::WIDE][4], const unsigned char *stage, int row, int column,
                                 const struct product_args &a, struct place_in_k at)
{
    const unsigned char *rows = stage + C::X_BYTES;
    const struct weights_chunk chunk = {rows, &a.groups, (const uint32_t *)(rows + C::W_BYTES), C::SLOT_WORDS, at};
#pragma unroll
    for (int step = 0; step < 2; step++) {
        struct fragments w;
        weights<O, W>::load(w, chunk, column, step);
#pragma unroll
        for (int i = 0; i < C::TALL; i++) {
            uint32_t high[4], low[4];
            load_x<O>(high, low, (const float *)stage, row + i * 16, step);
            if (W == TILE_32)
                mma_tile<O>(sums[i], high, w.low);
            mma_tile<O>(sums[i], low, w.high);
            mma_tile<O>(sums[i], high, w.high);
        }
    }
}

template <enum operand O, enum tile_kind W, int ROWS, int COLUMNS, bool ALIGNED>
__global__ void __launch_bounds__(cut<O, W, ROWS, COLUMNS>::THREADS, cut<O, W, ROWS, COLUMNS>::BLOCKS)
    product_kernel(const struct product_args a)
{
    typedef cut<O, W, ROWS, COLUMNS> C;
    int row_tile = (int)blockIdx.x / a.column_tiles, column_tile = (int)blockIdx.x - row_tile * a.column_tiles;
    int first_row = row_tile * ROWS, first_column = column_tile * COLUMNS, all = a.taps.count * a.chunks;
    int warp = (int)threadIdx.x / 32, warp_row = warp % 2 * C::TALL * 16, warp_column = warp / 2 * C::WIDE * 8;
    int first = a.parts.shared_out ? (int)blockIdx.y * a.parts.length : 0;
    int end = a.parts.shared_out ? min(first + a.parts.length, all) : all;

    struct feeder<C, ALIGNED> feed;
    feed.begin(a, first_row, first_column, first);
#pragma unroll 1
    for (int s = 0; s < C::STAGES - 1; s++)
        feed.copy(shared_memory + s * a.stage_bytes, a, end);
    float sums[C::TALL][C::WIDE][4] = {}, total[C::TALL][C::WIDE][4] = {};
    struct place_in_k at;
    at.begin(first, a.chunks);
    int full = 0, empty = C::STAGES - 1; // stages to read and to fill
    for (int c = first; c < end;) {
        for (int stop = min(c + a.parts.length, end); c < stop; c++) {
            copy_wait<C::STAGES - 2>();
            __syncthreads(); // chunk c has arrived, and all warps are done with the stage that is filled next
            feed.copy(shared_memory + empty * a.stage_bytes, a, end);
            add_chunk<O, W, C>(sums, shared_memory + full * a.stage_bytes, warp_row, warp_column, a, at);
            full = full + 1 == C::STAGES ? 0 : full + 1;
            empty = empty + 1 == C::STAGES ? 0 : empty + 1;
            at.advance(a.chunks);
        }
        add_part(total, sums);
    }
    bool joins = C::SHARES && a.parts.shared_out;
    if (joins && !join_parts(a.parts, total, (int)blockIdx.x, (int)blockIdx.y, (int *)shared_memory))
        return;
    __syncthreads(); // the stages become room for the sums
    finish_sums(a.finish, total, shared_memory, first_row + warp_row, first_column + warp_column);
}

/* -------------------------------------------------------------------------------- launcher */

template <enum operand O, enum tile_kind W, int ROWS, int COLUMNS, bool ALIGNED>
static void start(struct device *device, const char *name, struct product_args &a)
{
    typedef cut<O, W, ROWS, COLUMNS> C;
    a.column_tiles = (int)blocks_for(a.weights.rows, COLUMNS);
    a.stage_bytes = C::stage_bytes(a.groups);
    int64_t tiles = blocks_for((int64_t)a.finish.y.lanes * a.finish.y.positions, ROWS) * a.column_tiles;
    a.parts = parts_of(device, a.taps.count * a.chunks, tiles, ROWS * COLUMNS * (int64_t)sizeof(float));
    launch(device, name, product_kernel<O, W, ROWS, COLUMNS, ALIGNED>,
           dim3((unsigned)tiles, a.parts.shared_out ? (unsigned)a.parts.count : 1), C::THREADS,
           (size_t)C::shared_bytes(a.groups), a);
}

/* Large tiles read each number less often; small ones keep all processors busy. Of 32 bits, tiles are small: a large
 * one's sums, twice over (kernels/parts.h), leave no registers for pairs of weights. */
template <enum operand O, enum tile_kind W>
static void choose_tile(struct device *device, const char *name, struct product_args &a)
{
    int64_t rows = (int64_t)a.finish.y.lanes * a.finish.y.positions;
    bool enough = blocks_for(rows, 128) * blocks_for(a.weights.rows, 128) >= cuda_of(device)->processors;
    if (!in_fours(a.x))
        return start<O, W, 64, 64, false>(device, name, a);
    if constexpr (W != TILE_32) {
        if (enough && (size_t)cut<O, W, 128, 128>::shared_bytes(a.groups) <= shared_room(device))
            return start<O, W, 128, 128, true>(device, name, a);
    }
    start<O, W, 64, 64, true>(device, name, a);
}

template <enum operand O>
static void choose_weights(struct device *device, const char *name, struct product_args &a, enum tile_kind kind)
{
    switch (kind) {
    case TILE_4:
        return choose_tile<O, TILE_4>(device, name, a);
    case TILE_8:
        return choose_tile<O, TILE_8>(device, name, a);
    case TILE_16:
        return choose_tile<O, TILE_16>(device, name, a);
    case TILE_32:
        return choose_tile<O, TILE_32>(device, name, a);
    }
}

static void multiply(struct device *device, const struct product *p)
{
    if (gpu_rounds_once(device))
        return rounded_product(device, p);
    struct product_args a = {};
    a.taps = p->taps;
    a.weights = packed_rows_of(p->weight);
    a.groups = groups_of(p->weight);
    a.chunks = (int)tile_layout_of(p->weight).chunks;
    for (int64_t first = 0, count; first < p->y.lanes; first += count) {
        count = launch_lanes(device, p->y, p->epilogue.act, first);
        a.finish = finish_of(device, p->y, p->weight, p->epilogue, first, count);
        a.x = view_of<const float>(tensor_lanes(p->x, first, count));
        if (cuda_of(device)->operand == BFLOAT)
            choose_weights<BFLOAT>(device, p->name, a, tile_layout_of(p->weight).kind);
        else
            choose_weights<HALF>(device, p->name, a, tile_layout_of(p->weight).kind);
    }
}

void cuda_linear(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct epilogue e)
{
    struct product p = {"op_linear", y, x, w, e, taps_of_linear(y)};
    multiply(device, &p);
}

void cuda_conv(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct conv c,
               struct epilogue e)
{
    struct product p = {"op_conv", y, x, w, e, taps_of_conv(y, x, w, c)};
    multiply(device, &p);
}
