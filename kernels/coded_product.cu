/* kernels/coded_product.cu
 *
 * Products of tangents in codes of 8 bits with weights of 8 bits (kernels/rounded.h).
 *
 * Idea. Codes go into the matrix units as they lie in memory, x's and the weight's, and their sums are exact. After each
 * block of x's channels a sum is multiplied by the block's scale and added in float. Blocks are added in order, tap by
 * tap, as on the CPU (device/cpu/product8.c), so that both give the same to float's rounding.
 *
 * Outliers, a few channels that are zero in the codes (encode.cu), make one more stage for each tap: their numbers as
 * halves, times the weight's codes of their channels, which a kernel of its own has gathered.
 */
#include <string.h>

#include "kernels/rounded.h"

struct coded_args {
    struct rounded_args product; /* x: codes */
    const float *scales;         /* [lanes][positions][blocks] */
    int blocks, block_stages;    /* block_stages: of one, the last may have fewer */
    const uint4 *outliers;       /* [lanes][positions][outlier_pieces]; pieces 0: none */
    int outlier_pieces;
    const unsigned char *outlier_weights; /* [taps][packed rows][OUTLIERS] codes */
};

/* -------------------------------------------------------------------------------- the outliers' weights */

struct gather_args {
    unsigned char *to;
    const unsigned char *weights;
    int64_t row_bytes;
    int rows, taps, tap_bytes, count;
    int32_t outlier[OUTLIERS];
};

static __global__ void __launch_bounds__(OUTLIERS * 8) gather_weights(const struct gather_args a)
{
    int number = (int)(blockIdx.x * blockDim.x + threadIdx.x) / OUTLIERS, k = (int)threadIdx.x % OUTLIERS;
    int tap = number / a.rows, row = number - tap * a.rows;
    if (tap >= a.taps)
        return;
    const unsigned char *from = a.weights + row * a.row_bytes + tap * a.tap_bytes;
    a.to[(int64_t)number * OUTLIERS + k] = k < a.count ? from[a.outlier[k]] : 0;
}

/* -------------------------------------------------------------------------------- kernel */

enum { STAGES = 4, OUTLIER_PIECES = 2 /* of a row of the outliers' weights */ };

/* A stage, and the scales of its block for the rows. */
template <class C> struct codes_layout : stage_layout<C, 4, 4, 32> {
    static const int SCALES = stage_layout<C, 4, 4, 32>::BYTES, BYTES = SCALES + C::ROWS * (int)sizeof(float);
};

/* Fills stages in order: of each tap those of its codes, then that of its outliers. */
template <class C> struct filler {
    typedef codes_layout<C> L;
    struct feeder<L> feed;
    int block, left; /* the current one of the tap, and its stages that are left */

    __device__ void begin(const struct coded_args &a, int first_row, int first_column)
    {
        feed.begin(a.product, first_row, first_column);
        begin_tap(a);
    }

    __device__ void begin_tap(const struct coded_args &a)
    {
        block = 0;
        left = a.block_stages;
    }

    __device__ void fill(unsigned char *stage, const struct coded_args &a, int first_column)
    {
        bool done = feed.chunk >= a.product.chunks;
        if (done) {
            copy_outliers(stage, a, first_column);
        } else {
            copy_scales((float *)(stage + L::SCALES), a);
            done = feed.copy(stage, a.product) && a.outlier_pieces == 0;
            if (--left == 0) {
                block++;
                left = a.block_stages;
            }
        }
        if (done) {
            feed.next_tap(a.product);
            begin_tap(a);
        }
    }

    __device__ void copy_scales(float *to, const struct coded_args &a)
    {
        if ((int)threadIdx.x % L::X_PIECES != 0)
            return;
        for (int i = 0; i < feed.X_COUNT; i++) {
            bool inside = feed.source[i] >= 0;
            int64_t number = inside ? (int64_t)feed.source[i] * a.blocks + block : 0;
            copy_async<4>(to + (int)threadIdx.x / L::X_PIECES + i * feed.X_STEP, a.scales + number, inside);
        }
    }

    __device__ void copy_outliers(unsigned char *stage, const struct coded_args &a, int first_column)
    {
        static_assert(C::COLUMNS * OUTLIER_PIECES == C::THREADS, "a piece for each thread");
        feed.copy_x(stage, a.outliers, a.outlier_pieces, 0);
        int row = (int)threadIdx.x / OUTLIER_PIECES, piece = (int)threadIdx.x % OUTLIER_PIECES;
        bool inside = first_column + row < a.product.finish.packed;
        int64_t number = inside ? (int64_t)feed.tap * a.product.finish.packed + first_column + row : 0;
        copy_async<16>(stage + L::X_BYTES + piece_place<OUTLIER_PIECES>(row, piece) * 16,
                       a.outlier_weights + number * OUTLIERS + piece * 16, inside);
    }
};

/* part += a stage's codes of x times its codes of the weights. */
template <class C>
__device__ static void add_codes(int (&part)[C::TALL][C::WIDE][4], const unsigned char *stage, int x_at, int w_at,
                                 int chunks)
{
#pragma unroll
    for (int step = 0; step < 2; step++) {
        if (step >= chunks)
            break;
        uint32_t left[C::TALL][4], right[C::WIDE][2], words[4];
#pragma unroll
        for (int i = 0; i < C::TALL; i++)
            load_matrices(left[i], stage + (x_at ^ step * 32) + i * 16 * 64);
#pragma unroll
        for (int pair = 0; pair < C::WIDE / 2; pair++) {
            load_matrices(words, stage + (w_at ^ step * 32) + pair * 16 * 64);
            for (int i = 0; i < 4; i++)
                right[pair * 2 + i / 2][i % 2] = words[i];
        }
#pragma unroll
        for (int i = 0; i < C::TALL; i++)
            mma_codes(part[i], left[i], right);
    }
}

/* sums += a stage's outliers, halves times codes. */
template <enum operand O, class C>
__device__ static void add_outliers(float (&sums)[C::TALL][C::WIDE][4], const unsigned char *stage, int x_at, int w_at)
{
    uint32_t right[2][C::WIDE][2], words[4];
#pragma unroll
    for (int pair = 0; pair < C::WIDE / 2; pair++) { // 16 rows further, pieces have changed places
        load_matrices(words, stage + (w_at ^ pair % 2 * 16) + pair * 16 * 32);
        for (int i = 0; i < 4; i++)
            widen_codes<O>(words[i], right[i % 2][pair * 2 + i / 2]);
    }
#pragma unroll
    for (int step = 0; step < 2; step++)
#pragma unroll
        for (int i = 0; i < C::TALL; i++) {
            uint32_t left[4];
            load_matrices(left, stage + (x_at ^ step * 32) + i * 16 * 64);
            mma_tile<O>(sums[i], left, right[step]);
        }
}

/* sums += part times the rows' scales; part begins anew. */
template <class C>
__device__ static void add_block(float (&sums)[C::TALL][C::WIDE][4], int (&part)[C::TALL][C::WIDE][4],
                                 const float *scales)
{
#pragma unroll
    for (int i = 0; i < C::TALL; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float scale = scales[i * 16 + half * 8 + (int)threadIdx.x % 32 / 4];
#pragma unroll
            for (int n = 0; n < C::WIDE; n++)
#pragma unroll
                for (int j = half * 2; j < half * 2 + 2; j++) {
                    sums[i][n][j] = fmaf((float)part[i][n][j], scale, sums[i][n][j]);
                    part[i][n][j] = 0;
                }
        }
}

template <enum operand O, class C> __global__ void __launch_bounds__(C::THREADS) coded_kernel(const struct coded_args a)
{
    typedef codes_layout<C> L;
    const struct rounded_args &p = a.product;
    int row_tile = (int)blockIdx.x / p.column_tiles, column_tile = (int)blockIdx.x - row_tile * p.column_tiles;
    int first_row = row_tile * C::ROWS, first_column = column_tile * C::COLUMNS;
    int warp = (int)threadIdx.x / 32, warp_row = warp % C::DOWN * C::TALL * 16,
        warp_column = warp / C::DOWN * C::WIDE * 8;
    int x_at = fragment_at<4, true>(warp_row), w_at = L::X_BYTES + fragment_at<4, false>(warp_column);
    int outliers_at = L::X_BYTES + fragment_at<OUTLIER_PIECES, false>(warp_column);

    struct filler<C> filler;
    filler.begin(a, first_row, first_column);
    float sums[C::TALL][C::WIDE][4] = {};
    int part[C::TALL][C::WIDE][4] = {};
    int plain = (p.chunks + 1) / 2, of_tap = plain + (a.outlier_pieces > 0), stages = p.taps.count * of_tap;
    for (int c = 0; c < STAGES - 1; c++) {
        if (c < stages)
            filler.fill(shared_memory + c * L::BYTES, a, first_column);
        copy_commit(); // every step closes one group, so that counting groups counts stages
    }
    int number = 0, left = a.block_stages; // of the tap's stages; until the block ends
    int full = 0, empty = STAGES - 1;
    for (int c = 0; c < stages; c++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); // stage c has arrived, and all warps are done with the one that is filled next
        if (c + STAGES - 1 < stages)
            filler.fill(shared_memory + empty * L::BYTES, a, first_column);
        copy_commit();
        const unsigned char *s = shared_memory + full * L::BYTES;
        full = full + 1 == STAGES ? 0 : full + 1;
        empty = empty + 1 == STAGES ? 0 : empty + 1;
        if (number < plain) {
            add_codes<C>(part, s, x_at, w_at, p.chunks - 2 * number);
            if (--left == 0 || number + 1 == plain) {
                add_block<C>(sums, part, (const float *)(s + L::SCALES) + warp_row);
                left = a.block_stages;
            }
        } else {
            add_outliers<O, C>(sums, s, x_at, outliers_at);
        }
        number = number + 1 == of_tap ? 0 : number + 1;
    }
    __syncthreads(); // the stages become room for the sums
    finish_sums(p.finish, sums, shared_memory, first_row + warp_row, first_column + warp_column);
}

/* -------------------------------------------------------------------------------- launchers */

template <enum operand O, class C> static void start(struct device *device, const char *name, struct coded_args &a)
{
    const struct finish &f = a.product.finish;
    a.product.column_tiles = (int)blocks_for(f.packed, C::COLUMNS);
    int64_t blocks = blocks_for((int64_t)f.y.lanes * f.y.positions, C::ROWS) * a.product.column_tiles;
    launch(device, name, coded_kernel<O, C>, dim3((unsigned)blocks), C::THREADS,
           shared_bytes<codes_layout<C>, STAGES>(), a);
}

template <enum operand O> static void choose_cut(struct device *device, const char *name, struct coded_args &a)
{
    bool middle = shared_room(device) >= shared_bytes<codes_layout<middle_cut>, STAGES>();
    // estimates, until they are measured
    if (middle && cost_of<middle_cut>(device, a.product, 100) <= cost_of<small_cut>(device, a.product, 180))
        start<O, middle_cut>(device, name, a);
    else
        start<O, small_cut>(device, name, a);
}

static void gather_outliers(struct device *device, const struct product *p, struct coded_args *a, char *to)
{
    const struct coded *coded = device->coded;
    struct gather_args g = {};
    g.to = (unsigned char *)to;
    g.weights = a->product.weights;
    g.row_bytes = a->product.row_bytes;
    g.rows = a->product.finish.packed;
    g.taps = p->taps.count;
    g.tap_bytes = a->product.chunks * TILE_DEPTH;
    g.count = (int)coded->count;
    memcpy(g.outlier, coded->outliers, sizeof g.outlier);
    const unsigned THREADS = OUTLIERS * 8;
    int64_t numbers = (int64_t)g.taps * g.rows * OUTLIERS;
    launch(device, p->name, gather_weights, dim3((unsigned)blocks_for(numbers, THREADS)), THREADS, 0, g);
    a->outlier_weights = g.to;
}

void coded_product(struct device *device, const struct product *p, int64_t first)
{
    int64_t count = p->y.lanes - first, rows = count * tensor_positions(p->x);
    struct gpu_work work = gpu_work_of(device, p->x, p->weight);
    char *memory = (char *)tensor_data(device->work), *codes = memory + work.codes;
    struct coded_args a = {};
    a.product = rounded_args_of(device, p, first, count);
    a.product.x = (const uint4 *)codes;
    a.product.row_pieces = (int)work.numbers / 16;
    a.scales = (const float *)(memory + work.scales);
    a.blocks = (int)work.blocks;
    a.block_stages = (int)blocks_for(work.block, DEPTH);
    encode_codes(device, p->x, first, count);
    if (device->coded->count > 0) {
        a.outliers = (const uint4 *)(codes + rows * work.numbers);
        a.outlier_pieces = outlier_room(work) / 8;
        gather_outliers(device, p, &a, memory + work.outlier_weights);
    }
    if (cuda_of(device)->operand == BFLOAT)
        choose_cut<BFLOAT>(device, p->name, a);
    else
        choose_cut<HALF>(device, p->name, a);
}
