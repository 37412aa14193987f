/* kernels/product.cu
 *
 * Linear layers and convolutions: one tiled kernel.
 *
 * Idea. y [M, N] = x [M, K] Wt, M = lanes x positions, K = taps x channels. A convolution is the same product with a
 * left factor that is never stored: the row of output position (oy, ox) under tap (ky, kx) is the input's position
 * (oy * stride - pad + ky, ...), zeros where that lies outside; enlarging by nearest neighbour is one more map of
 * positions. K is processed in chunks of 32 channels of one tap, so a chunk of a row is 128 contiguous bytes.
 *
 *     global memory ── copy_async, STAGES ahead ─► shared: x floats, weights still packed
 *     shared ── float4 and ldmatrix ─► registers: x split into pairs, codes widened ─► mma ─► float accumulators
 *     accumulators ─► x scale + bias + lane bias, activation (or value x gelu(gate)), + residual ─► y
 *
 * Weights reach the matrix units as they are in memory, 8 or 4 bits wide; nothing is ever unpacked into memory.
 * src/device/tiles.h describes how a row is laid out so that a lane finds its four k with one load.
 *
 * Lanes (device/device.h): every number of y is one chain of sums over k, in order, whichever
 * tile it lies in. So the choice of tiles may depend on the number of rows.
 */
#include "kernels/product.h"

enum { DEPTH = TILE_DEPTH, ROW_PIECES = DEPTH / 4 }; /* of a chunk: numbers, and 16-byte pieces of x */

/* -------------------------------------------------------------------------------- kernel */

struct product_args {
    struct finish out;
    struct view<const float> x;
    const unsigned char *weights;
    const uint32_t *groups; /* 4 bits: [packed rows][groups per row] scale and middle, two halves */
    int64_t row_bytes;      /* of a packed row of weights */
    int weight_rows, group, groups_per_row;
    int kernel_width, taps, chunks; /* chunks: of a tap's channels */
    int in_height, in_width, out_width, stride, pad;
    float step_y, step_x; /* up: input rows and columns per output's; 0: none */
    int column_tiles;
};

/* A chunk of a weight row: its 16-byte pieces, and how they are spread over banks so that ldmatrix reads eight rows at
 * once. */
template <enum tile_kind W> struct weight_tile {
    static const int PIECES = W == TILE_4 ? 1 : W == TILE_8 ? 2 : W == TILE_16 ? 4 : 8;
    __device__ static int place(int row, int piece)
    {
        return piece ^ ((row * PIECES / 8) & (PIECES - 1));
    }
};

template <enum tile_kind W, int ROWS, int COLUMNS> struct stage {
    float x[ROWS * DEPTH];
    unsigned char w[COLUMNS * weight_tile<W>::PIECES * 16];
};

/* Piece `piece` of row `row` of x: odd rows swap halves, so that two rows' float4 loads share no bank. */
__device__ static int x_place(int row, int piece)
{
    return row * DEPTH + (piece ^ ((row & 1) << 2)) * 4;
}

/* Row and column of x under a tap; false if the tap is outside. */
__device__ static bool find_input(const struct product_args &a, int *y, int *x)
{
    if (a.step_y > 0) { // the kernel slides over the enlarged picture
        int height = a.out.y.positions / a.out_width;
        if (*y < 0 || *y >= height || *x < 0 || *x >= a.out_width)
            return false;
        *y = min((int)floorf((float)*y * a.step_y), a.in_height - 1);
        *x = min((int)floorf((float)*x * a.step_x), a.in_width - 1);
        return true;
    }
    return *y >= 0 && *y < a.in_height && *x >= 0 && *x < a.in_width;
}

/* What one thread copies of every chunk: a piece of some rows of x and of the weights. Addresses are computed for each
 * tap, and only advanced from chunk to chunk within it. */
template <enum tile_kind W, int ROWS, int COLUMNS, int THREADS, bool ALIGNED> struct feeder {
    static const int PIECES = weight_tile<W>::PIECES, STEP = THREADS / ROW_PIECES, COUNT = ROWS / STEP;
    static const int W_COUNT = (COLUMNS * PIECES + THREADS - 1) / THREADS;
    const float *lane[COUNT]; /* first number of each row's lane */
    int y[COUNT], x[COUNT];   /* of the first tap; y far outside for rows past the last */
    const float *from[COUNT]; /* this thread's piece under the current tap; NULL: outside */
    const unsigned char *weights[W_COUNT];
    int ky, kx, channel;

    __device__ void begin(const struct product_args &a, int first_row, int first_column)
    {
        const int OUTSIDE = -(1 << 28);
        for (int i = 0; i < COUNT; i++) {
            int row = first_row + (int)threadIdx.x / ROW_PIECES + i * STEP;
            bool inside = row < a.out.y.lanes * a.out.y.positions;
            int number = inside ? row / a.out.y.positions : 0, position = row - number * a.out.y.positions;
            int top = position / a.out_width, left = position - top * a.out_width;
            lane[i] = a.x.data + number * a.x.lane_stride;
            y[i] = inside ? top * a.stride - a.pad : OUTSIDE;
            x[i] = left * a.stride - a.pad;
        }
        for (int i = 0; i < W_COUNT; i++) {
            int number = (int)threadIdx.x + i * THREADS, row = first_column + number / PIECES;
            bool inside = number < COLUMNS * PIECES && row < a.weight_rows;
            weights[i] = inside ? a.weights + row * a.row_bytes + number % PIECES * 16 : NULL;
        }
        ky = kx = channel = 0;
        aim(a);
    }

    __device__ void aim(const struct product_args &a)
    {
        for (int i = 0; i < COUNT; i++) {
            int at_y = y[i] + ky, at_x = x[i] + kx;
            bool inside = find_input(a, &at_y, &at_x);
            // the product for a row far outside would overflow an int
            int64_t row = inside ? at_y * a.in_width + at_x : 0;
            from[i] = inside ? lane[i] + row * a.x.row_stride + (int)threadIdx.x % ROW_PIECES * 4 : NULL;
        }
    }

    /* Enqueues the next chunk's copies into a stage. */
    __device__ void copy(struct stage<W, ROWS, COLUMNS> &s, const struct product_args &a)
    {
        int piece = (int)threadIdx.x % ROW_PIECES, left = a.x.channels - channel - piece * 4;
        for (int i = 0; i < COUNT; i++) {
            float *to = s.x + x_place((int)threadIdx.x / ROW_PIECES + i * STEP, piece);
            bool inside = from[i] && left > 0;
            if (ALIGNED) { // the channels are whole pieces
                copy_async<16>(to, inside ? from[i] : a.x.data, inside);
            } else {
                for (int j = 0; j < 4; j++)
                    copy_async<4>(to + j, inside && j < left ? from[i] + j : a.x.data, inside && j < left);
            }
            if (from[i])
                from[i] += DEPTH;
        }
        for (int i = 0; i < W_COUNT; i++) {
            int number = (int)threadIdx.x + i * THREADS, row = number / PIECES;
            if (number >= COLUMNS * PIECES)
                break;
            copy_async<16>(s.w + (row * PIECES + weight_tile<W>::place(row, number % PIECES)) * 16,
                           weights[i] ? weights[i] : a.weights, weights[i] != NULL);
            if (weights[i])
                weights[i] += PIECES * 16;
        }
        copy_commit();
        channel += DEPTH;
        if (channel >= a.x.channels)
            next_tap(a);
    }

    __device__ void next_tap(const struct product_args &a)
    {
        channel = 0;
        if (++kx == a.kernel_width) {
            kx = 0;
            ky++;
        }
        aim(a);
    }
};

/* A 16 x 16 tile of x as pairs: rows `row` + g and + 8, the lane's four k of step `step`. */
template <enum operand O>
__device__ static void load_x(uint32_t (&hi)[4], uint32_t (&lo)[4], const float *x, int row, int step)
{
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; half++) {
        float4 v = *(const float4 *)(x + x_place(row + half * 8 + g, step * 4 + t));
        split_two<O>(v.x, v.y, &hi[half], &lo[half]);
        split_two<O>(v.z, v.w, &hi[half + 2], &lo[half + 2]);
    }
}

/* The group of each of the lane's four k: scale in the low half, the value of code 8 in the high one. */
struct affine {
    uint32_t of[4];
};

/* Groups follow the file's order (channel, tap), in which neighbouring channels are `taps` numbers apart, so the four
 * are mostly in one or two groups. */
__device__ static struct affine find_groups(const struct product_args &a, int row, int tap, int channel)
{
    const uint32_t *groups = a.groups + (int64_t)min(row, a.weight_rows - 1) * a.groups_per_row;
    int from = channel * a.taps + tap, most = a.groups_per_row - 1; // padding uses the last one
    struct affine f;
    if (3 * a.taps >= a.group) {
        for (int j = 0; j < 4; j++)
            f.of[j] = groups[min((from + j * a.taps) / a.group, most)];
        return f;
    }
    int first = min(from / a.group, most), last = min((from + 3 * a.taps) / a.group, most);
    uint32_t low = groups[first], high = groups[last];
    int end = (first + 1) * a.group;
    for (int j = 0; j < 4; j++)
        f.of[j] = from + j * a.taps < end ? low : high;
    return f;
}

/* Four nibbles -> (code - 8) * scale + middle, rounded once to the operand's type. */
template <enum operand O>
__device__ static void widen_nibbles(uint32_t (&out)[2], uint32_t nibbles, const struct affine &f)
{
    float w[4];
    for (int j = 0; j < 4; j++) {
        float2 of = unpack_two<HALF>(f.of[j]);
        w[j] = fmaf((float)((int)((nibbles >> (4 * j)) & 15u) - 8), of.x, of.y);
    }
    out[0] = pack_two<O>(w[0], w[1]);
    out[1] = pack_two<O>(w[2], w[3]);
}

/* Four 16 x 8 tiles of the weights for both steps of a chunk; `low` only for pairs of floats. */
template <enum operand O, enum tile_kind W>
__device__ static void load_w(uint32_t (&high)[2][4][2], uint32_t (&low)[2][4][2], const unsigned char *w, int column,
                              const struct product_args &a, int first_column, int tap, int channel)
{
    const int PIECES = weight_tile<W>::PIECES;
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4, matrix = lane / 8;
    uint32_t words[4];
    if (W == TILE_4) { // one matrix a tile: a word has the four k of both steps
        int row = column + matrix * 8 + lane % 8;
        load_matrices(words, w + row * 16);
        for (int i = 0; i < 4; i++)
            for (int step = 0; step < 2; step++) {
                struct affine f = find_groups(a, first_column + column + i * 8 + g, tap, channel + step * 16 + t * 4);
                widen_nibbles<O>(high[step][i], words[i] >> (16 * step), f);
            }
        return;
    }
    if (W == TILE_8) { // a matrix for each tile and step
        for (int pair = 0; pair < 2; pair++) {
            int row = column + (pair * 2 + matrix / 2) * 8 + lane % 8;
            load_matrices(words, w + (row * PIECES + weight_tile<W>::place(row, matrix % 2)) * 16);
            for (int i = 0; i < 4; i++)
                widen_codes<O>(words[i], high[i % 2][pair * 2 + i / 2]);
        }
        return;
    }
    const int PLANES = W == TILE_32 ? 2 : 1;
    for (int plane = 0; plane < PLANES; plane++) {
        uint32_t(*to)[4][2] = plane ? low : high;
        for (int step = 0; step < 2; step++)
            for (int pair = 0; pair < 2; pair++) {
                int row = column + (pair * 2 + matrix / 2) * 8 + lane % 8, piece = plane * 4 + step * 2 + matrix % 2;
                load_matrices(words, w + (row * PIECES + weight_tile<W>::place(row, piece)) * 16);
                for (int i = 0; i < 4; i++)
                    to[step][pair * 2 + i / 2][i % 2] = words[i];
            }
    }
}

/* acc += a chunk of x times a chunk of the weights, for the warp's rows from `row` and its packed columns. */
template <enum operand O, enum tile_kind W, int ROWS, int COLUMNS, int TALL>
__device__ static void add_chunk(float (&acc)[TALL][4][4], const struct stage<W, ROWS, COLUMNS> &s,
                                 const uint32_t (&high)[2][4][2], const uint32_t (&low)[2][4][2], int row)
{
#pragma unroll
    for (int step = 0; step < 2; step++)
#pragma unroll
        for (int i = 0; i < TALL; i++) {
            uint32_t x_high[4], x_low[4];
            load_x<O>(x_high, x_low, s.x, row + i * 16, step);
            if (W == TILE_32)
                mma_tile<O>(acc[i], x_high, low[step]);
            mma_tile<O>(acc[i], x_low, high[step]);
            mma_tile<O>(acc[i], x_high, high[step]);
        }
}

template <enum operand O, enum tile_kind W, int ROWS, int COLUMNS, bool ALIGNED>
struct tile_shape {
    static const int WARP_ROWS = ROWS / 2, WARP_COLUMNS = 32;
    static const int THREADS = 2 * (COLUMNS / WARP_COLUMNS) * 32;
    static const int STAGES = W == TILE_32 ? 2 : 3, TALL = WARP_ROWS / 16, WIDE = WARP_COLUMNS / 8;
    static const int STAGE_BYTES = STAGES * (int)sizeof(struct stage<W, ROWS, COLUMNS>);
    static const int ROOM_BYTES = finish_room<TALL, WIDE, THREADS / 32>::BYTES;
    static const int SHARED = STAGE_BYTES > ROOM_BYTES ? STAGE_BYTES : ROOM_BYTES; /* bytes */
};

template <enum operand O, enum tile_kind W, int ROWS, int COLUMNS, bool ALIGNED>
__global__ void __launch_bounds__(tile_shape<O, W, ROWS, COLUMNS, ALIGNED>::THREADS, ROWS == 128 ? 1 : 3)
    product_kernel(const struct product_args a)
{
    using shape = tile_shape<O, W, ROWS, COLUMNS, ALIGNED>;
    const int STAGES = shape::STAGES, THREADS = shape::THREADS;
    auto *stages = (struct stage<W, ROWS, COLUMNS> *)shared_memory;
    int row_tile = (int)blockIdx.x / a.column_tiles, column_tile = (int)blockIdx.x - row_tile * a.column_tiles;
    int first_row = row_tile * ROWS, first_column = column_tile * COLUMNS, total = a.taps * a.chunks;
    int warp = (int)threadIdx.x / 32;
    int warp_row = warp % 2 * shape::WARP_ROWS, warp_column = warp / 2 * shape::WARP_COLUMNS;

    struct feeder<W, ROWS, COLUMNS, THREADS, ALIGNED> feed;
    feed.begin(a, first_row, first_column);
    float acc[shape::TALL][shape::WIDE][4] = {};
    for (int c = 0; c < STAGES - 1; c++) {
        if (c < total)
            feed.copy(stages[c], a);
        else
            copy_commit(); // every step closes one group, so that counting groups counts chunks
    }
    int tap = 0, channel = 0, full = 0, empty = STAGES - 1; // the current chunk; stages to read and to fill
    for (int c = 0; c < total; c++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); // chunk c has arrived, and all warps are done with the stage that is filled next
        if (c + STAGES - 1 < total)
            feed.copy(stages[empty], a);
        else
            copy_commit();
        const struct stage<W, ROWS, COLUMNS> &s = stages[full];
        uint32_t high[2][4][2], low[2][4][2];
        load_w<O, W>(high, low, s.w, warp_column, a, first_column, tap, channel);
        add_chunk<O>(acc, s, high, low, warp_row);
        full = full + 1 == STAGES ? 0 : full + 1;
        empty = empty + 1 == STAGES ? 0 : empty + 1;
        channel += DEPTH;
        if (channel >= a.x.channels) {
            channel = 0;
            tap++;
        }
    }
    __syncthreads(); // the stages become room for the sums
    finish_sums(a.out, acc, shared_memory, first_row + warp_row, first_column + warp_column);
}

/* -------------------------------------------------------------------------------- launcher */

template <enum operand O, enum tile_kind W, int ROWS, int COLUMNS, bool ALIGNED>
static void start(struct device *device, const char *name, struct product_args &a)
{
    using shape = tile_shape<O, W, ROWS, COLUMNS, ALIGNED>;
    a.column_tiles = (int)blocks_for(a.weight_rows, COLUMNS);
    int64_t blocks = blocks_for((int64_t)a.out.y.lanes * a.out.y.positions, ROWS) * a.column_tiles;
    launch(device, name, product_kernel<O, W, ROWS, COLUMNS, ALIGNED>, dim3((unsigned)blocks), shape::THREADS,
           shape::SHARED, a);
}

/* Of a block, before sm_80. */
enum { LITTLE_SHARED = 64 << 10 };

/* Large tiles read each number less often; small ones keep all processors busy. */
template <enum operand O, enum tile_kind W>
static void choose_tile(struct device *device, const char *name, struct product_args &a)
{
    int64_t rows = (int64_t)a.out.y.lanes * a.out.y.positions;
    bool fits = cuda_of(device)->capability >= 80 || tile_shape<O, W, 128, 128, true>::SHARED <= LITTLE_SHARED;
    if (!in_fours(a.x))
        start<O, W, 64, 64, false>(device, name, a);
    else if (!fits || blocks_for(rows, 128) * blocks_for(a.weight_rows, 128) < cuda_of(device)->processors)
        start<O, W, 64, 64, true>(device, name, a);
    else
        start<O, W, 128, 128, true>(device, name, a);
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

static struct product_args arguments(const struct weight *w)
{
    struct product_args a = {};
    struct tile_layout l = tile_layout_of(w);
    a.weights = (const unsigned char *)w->data;
    a.groups = w->groups;
    a.row_bytes = l.row_bytes;
    a.weight_rows = (int)l.rows;
    a.group = (int)l.group;
    a.groups_per_row = (int)l.groups_per_row;
    a.kernel_width = (int)w->kw;
    a.taps = (int)(w->kh * w->kw);
    a.chunks = (int)l.chunks;
    return a;
}

static void multiply(struct device *device, const char *name, struct product_args &a, struct tensor y, struct tensor x,
                     const struct weight *w, struct epilogue e)
{
    enum tile_kind kind = tile_layout_of(w).kind;
    for (int64_t first = 0, count; first < y.lanes; first += count) {
        count = launch_lanes(device, y, e.act, first);
        a.out = finish_of(device, y, w, e, first, count);
        a.x = view_of<const float>(tensor_lanes(x, first, count));
        if (cuda_of(device)->operand == BFLOAT)
            choose_weights<BFLOAT>(device, name, a, kind);
        else
            choose_weights<HALF>(device, name, a, kind);
    }
}

void cuda_linear(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct epilogue e)
{
    if (gpu_rounds_once(device) && !w->group) {
        struct product p = {"op_linear", y, x, w, e, taps_of_linear(y)};
        return rounded_product(device, &p);
    }
    struct product_args a = arguments(w);
    a.in_height = 1;
    a.in_width = a.out_width = (int)tensor_positions(y);
    a.stride = 1;
    multiply(device, "op_linear", a, y, x, w, e);
}

void cuda_conv(struct device *device, struct tensor y, struct tensor x, const struct weight *w, struct conv c,
               struct epilogue e)
{
    if (gpu_rounds_once(device) && !w->group) {
        struct product p = {"op_conv", y, x, w, e, taps_of_conv(y, x, w, c)};
        return rounded_product(device, &p);
    }
    struct product_args a = arguments(w);
    a.in_height = (int)x.height;
    a.in_width = (int)x.width;
    a.out_width = (int)y.width;
    a.stride = (int)c.stride;
    a.pad = (int)c.pad;
    if (c.up) {
        a.step_y = (float)x.height / (float)y.height;
        a.step_x = (float)x.width / (float)y.width;
    }
    multiply(device, "op_conv", a, y, x, w, e);
}
