/* kernels/coded_product.cu
 *
 * Products of tangents in codes of 8 bits with weights of 8 bits (kernels/rounded.h).
 *
 * Idea. Codes go into the matrix units as they lie in memory, x's and the weight's, and their sums are exact. After each
 * block of x's channels a sum is multiplied by the block's scale and added in float. Blocks are added in order, tap by
 * tap, as on the CPU (device/cpu/product8.c), so that both give the same to float's rounding.
 *
 * Outliers, a few channels that are zero in the codes (encode.cu), make one more stage for each tap: their numbers as
 * halves, times the weight's codes of their channels, which encode.cu has gathered.
 */
#include "kernels/rounded.h"

struct coded_args {
    struct rounded_args product; /* x: codes */
    const float *scales;         /* [lanes][positions][blocks] */
    int blocks, block_chunks;    /* of a tap; chunks of a block, of which the last may have fewer */
    int stages;
    const uint4 *outliers; /* [lanes][positions][outlier_pieces]; pieces 0: none */
    int outlier_pieces;
    const unsigned char *outlier_weights; /* [taps][packed rows][OUTLIERS] codes */
};

/* -------------------------------------------------------------------------------- kernel */

enum { STAGES = 3, CHUNKS = 4 /* of 32 codes, in a stage */, PIECES = CHUNKS * 2, OUTLIER_PIECES = 2 };

/* A stage: x's rows, then the weight's, then the scales of the block that ends with it, for each row. */
template <class C> struct stage {
    static const int X_BYTES = C::ROWS * PIECES * 16, SCALES = X_BYTES + C::COLUMNS * PIECES * 16;
    static const int BYTES = SCALES + C::ROWS * (int)sizeof(float);
};

/* Fills stages in order: of each tap those of its blocks, of which none ends within a stage, then its outliers'. */
template <class C> struct filler {
    static const int STEP = C::THREADS / PIECES, COUNT = C::COLUMNS / STEP;
    struct encoded_rows<PIECES, C> x;
    const unsigned char *weights; /* this thread's piece of its first row */
    int first_column, columns;    /* of the block; of this thread's rows of weights, those that exist */
    int tap, block, chunk;        /* chunk: of the tap */

    __device__ void begin(const struct coded_args &a, int first_row, int column)
    {
        static_assert(C::COLUMNS % STEP == 0, "all threads copy equally many pieces");
        x.begin(a.product, first_row);
        int row = column + (int)threadIdx.x / PIECES;
        first_column = column;
        weights = a.product.weights.data + row * a.product.weights.row_bytes + (int)threadIdx.x % PIECES * 16;
        columns = (a.product.weights.rows - row + STEP - 1) / STEP;
        tap = block = chunk = 0;
    }

    __device__ void fill(unsigned char *stage, const struct coded_args &a)
    {
        bool done = chunk >= a.product.chunks;
        if (done)
            copy_outliers(stage, a);
        else
            done = copy_codes(stage, a) && a.outlier_pieces == 0;
        if (!done)
            return;
        block = chunk = 0;
        x.aim(a.product.taps, ++tap);
    }

    /* True: they are the tap's last. */
    __device__ bool copy_codes(unsigned char *stage_, const struct coded_args &a)
    {
        int end = min((block + 1) * a.block_chunks, a.product.chunks), piece = (int)threadIdx.x % PIECES;
        x.copy(stage_, a.product.x, a.product.row_pieces, chunk * 2, end * 2);
        const unsigned char *from = weights + (tap * a.product.chunks + chunk) * TILE_DEPTH;
        unsigned char *to = stage_ + stage<C>::X_BYTES + piece_place<PIECES>((int)threadIdx.x / PIECES, piece) * 16;
        bool exists = chunk * 2 + piece < end * 2;
        for (int i = 0; i < COUNT; i++) {
            bool inside = exists && i < columns;
            copy_async<16>(to + i * C::THREADS * 16,
                           inside ? from + i * STEP * a.product.weights.row_bytes : a.product.weights.data, inside);
        }
        chunk += CHUNKS;
        if (chunk < end)
            return false;
        copy_scales((float *)(stage_ + stage<C>::SCALES), a);
        chunk = end;
        block++;
        return end == a.product.chunks;
    }

    __device__ void copy_scales(float *to, const struct coded_args &a)
    {
        if ((int)threadIdx.x % PIECES != 0)
            return;
        for (int i = 0; i < x.COUNT; i++) {
            bool inside = x.source[i] >= 0;
            int64_t number = inside ? (int64_t)x.source[i] * a.blocks + block : 0;
            copy_async<4>(to + (int)threadIdx.x / PIECES + i * x.STEP, a.scales + number, inside);
        }
    }

    __device__ void copy_outliers(unsigned char *stage_, const struct coded_args &a)
    {
        static_assert(C::COLUMNS * OUTLIER_PIECES == C::THREADS, "a piece for each thread");
        x.copy(stage_, a.outliers, a.outlier_pieces, 0, a.outlier_pieces);
        int row = (int)threadIdx.x / OUTLIER_PIECES, piece = (int)threadIdx.x % OUTLIER_PIECES;
        bool inside = first_column + row < a.product.weights.rows;
        int64_t number = inside ? (int64_t)tap * a.product.weights.rows + first_column + row : 0;
        copy_async<16>(stage_ + stage<C>::X_BYTES + piece_place<OUTLIER_PIECES>(row, piece) * 16,
                       a.outlier_weights + number * OUTLIERS + piece * 16, inside);
    }
};

/* part += a stage's codes of x times its codes of the weights, of which `chunks` have arrived. */
template <class C>
__device__ static void add_codes(int (&part)[C::TALL][C::WIDE][4], const unsigned char *s, int x_at, int w_at,
                                 int chunks)
{
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        if (chunk >= chunks)
            break;
        uint32_t left[C::TALL][4], right[C::WIDE][2], words[4];
#pragma unroll
        for (int i = 0; i < C::TALL; i++)
            load_matrices(left[i], s + (x_at ^ chunk * 32) + i * 16 * PIECES * 16);
#pragma unroll
        for (int pair = 0; pair < C::WIDE / 2; pair++) {
            load_matrices(words, s + stage<C>::X_BYTES + (w_at ^ chunk * 32) + pair * 16 * PIECES * 16);
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
__device__ static void add_outliers(float (&sums)[C::TALL][C::WIDE][4], const unsigned char *s, int x_at, int w_at)
{
    uint32_t right[2][C::WIDE][2], words[4];
#pragma unroll
    for (int pair = 0; pair < C::WIDE / 2; pair++) { // 16 rows further, pieces have changed places
        load_matrices(words, s + stage<C>::X_BYTES + (w_at ^ pair % 2 * 16) + pair * 16 * OUTLIER_PIECES * 16);
        for (int i = 0; i < 4; i++)
            widen_codes<O>(words[i], right[i % 2][pair * 2 + i / 2]);
    }
#pragma unroll
    for (int step = 0; step < 2; step++)
#pragma unroll
        for (int i = 0; i < C::TALL; i++) {
            uint32_t left[4];
            load_matrices(left, s + (x_at ^ step * 32) + i * 16 * PIECES * 16);
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

template <enum operand O, class C>
__global__ void __launch_bounds__(C::THREADS, C::BLOCKS) coded_kernel(const struct coded_args a)
{
    typedef struct stage<C> L;
    const struct rounded_args &p = a.product;
    int row_tile = (int)blockIdx.x / p.column_tiles, column_tile = (int)blockIdx.x - row_tile * p.column_tiles;
    int first_row = row_tile * C::ROWS, first_column = column_tile * C::COLUMNS;
    const struct warp_place<C> warp;
    int x_at = left_at<PIECES>(warp.row), w_at = right_at<PIECES>(warp.column);
    int outliers_at = right_at<OUTLIER_PIECES>(warp.column);

    struct filler<C> filler;
    filler.begin(a, first_row, first_column);
    float sums[C::TALL][C::WIDE][4] = {};
    int part[C::TALL][C::WIDE][4] = {};
    for (int c = 0; c < STAGES - 1; c++) {
        if (c < a.stages)
            filler.fill(shared_memory + c * L::BYTES, a);
        copy_commit(); // every step closes one group, so that counting groups counts stages
    }
    int chunk = 0, end = min(a.block_chunks, p.chunks), full = 0, empty = STAGES - 1; // of the tap; of the block
    for (int c = 0; c < a.stages; c++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); // stage c has arrived, and all warps are done with the one that is filled next
        if (c + STAGES - 1 < a.stages)
            filler.fill(shared_memory + empty * L::BYTES, a);
        copy_commit();
        const unsigned char *s = shared_memory + full * L::BYTES;
        full = full + 1 == STAGES ? 0 : full + 1;
        empty = empty + 1 == STAGES ? 0 : empty + 1;
        if (chunk < p.chunks) {
            add_codes<C>(part, s, x_at, w_at, end - chunk);
            chunk += CHUNKS;
            if (chunk < end)
                continue;
            add_block<C>(sums, part, (const float *)(s + L::SCALES) + warp.row);
            chunk = end;
            end = min(end + a.block_chunks, p.chunks);
            if (chunk < p.chunks || a.outlier_pieces > 0)
                continue;
        } else {
            add_outliers<O, C>(sums, s, x_at, outliers_at);
        }
        chunk = 0; // of the next tap
        end = min(a.block_chunks, p.chunks);
    }
    __syncthreads(); // the stages become room for the sums
    finish_sums(p.finish, sums, shared_memory, first_row + warp.row, first_column + warp.column);
}

/* -------------------------------------------------------------------------------- launchers */

template <enum operand O, class C> static void start(struct device *device, const char *name, struct coded_args &a)
{
    a.product.column_tiles = (int)blocks_for(a.product.weights.rows, C::COLUMNS);
    launch(device, name, coded_kernel<O, C>, dim3((unsigned)blocks_of<C>(a.product)), C::THREADS,
           shared_bytes<C>(STAGES * stage<C>::BYTES), a);
}

template <enum operand O> static void choose_cut(struct device *device, const char *name, struct coded_args &a)
{
    bool middle = shared_room(device) >= shared_bytes<middle_cut>(STAGES * stage<middle_cut>::BYTES);
    // estimates, until they are measured
    if (middle && cost_of<middle_cut>(device, a.product, 100) <= cost_of<small_cut>(device, a.product, 180))
        start<O, middle_cut>(device, name, a);
    else
        start<O, small_cut>(device, name, a);
}

static int stages_of_tap(const struct coded_args &a)
{
    int last = a.product.chunks - (a.blocks - 1) * a.block_chunks;
    return (int)((a.blocks - 1) * blocks_for(a.block_chunks, CHUNKS) + blocks_for(last, CHUNKS)) +
           (a.outlier_pieces > 0);
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
    a.block_chunks = (int)blocks_for(work.block, TILE_DEPTH);
    encode_codes(device, p->x, first, count);
    if (device->coded->count > 0) {
        a.outliers = (const uint4 *)(codes + rows * work.numbers);
        a.outlier_pieces = outlier_room(work) / 8;
        a.outlier_weights = (const unsigned char *)memory + work.outlier_weights;
        gather_outlier_weights(device, p->x, p->weight);
    }
    a.stages = p->taps.count * stages_of_tap(a);
    if (cuda_of(device)->operand == BFLOAT)
        choose_cut<BFLOAT>(device, p->name, a);
    else
        choose_cut<HALF>(device, p->name, a);
}
