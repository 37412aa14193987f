/* kernels/rounded.h
 *
 * Products whose operands are rounded once, in programs with tangents (device/gpu.h): what their files share. encode.cu
 * writes x's rows as the matrix units read them into the op's workspace, rounded_product.cu multiplies halves (or
 * bfloats), coded_product.cu codes of 8 bits.
 *
 * A product is y [M, N] = x [M, K] Wt as in product.cu, K running over (tap, channel). It is processed in stages of 64
 * channels of one tap. All rows of a stage, x's and the weight's, are whole pieces of 16 bytes, which go into shared
 * memory as they lie in memory:
 *
 *     global memory ── copy_async, STAGES ahead ─► shared ── ldmatrix ─► registers (codes widened, if x is halves) ─► mma
 *
 * So of a warp's instructions in a stage about one in three is a product (a matrix unit takes one in four to six).
 */
#ifndef ZOODIP_KERNELS_ROUNDED_H
#define ZOODIP_KERNELS_ROUNDED_H

#include "kernels/product.h"

enum { DEPTH = 64 }; /* channels of a stage: two chunks of a weight's row (device/tiles.h) */

struct rounded_args {
    struct finish finish;
    struct taps taps;
    const uint4 *x;               /* encoded, [lanes][positions][row_pieces] */
    const unsigned char *weights; /* [rows][row_bytes] */
    int64_t row_bytes;
    int row_pieces, chunks; /* of 32 channels, in a tap */
    int column_tiles;
};

/* How a block is cut: DOWN x ACROSS warps, each with TALL x WIDE tiles of 16 rows and 8 packed columns. */
template <int TALL_, int WIDE_, int DOWN_, int ACROSS> struct cut {
    static const int TALL = TALL_, WIDE = WIDE_, DOWN = DOWN_, WARPS = DOWN * ACROSS, THREADS = 32 * WARPS;
    static const int ROWS = DOWN * TALL * 16, COLUMNS = ACROSS * WIDE * 8;
};
typedef cut<4, 4, 2, 4> middle_cut;
typedef cut<2, 4, 2, 2> small_cut;

/* How a stage lies in shared memory: pieces in a row of x and of the weights, and bytes of a chunk of a weight's row in
 * memory, of which the first pieces are used. */
template <class C, int X_PIECES_, int W_PIECES_, int CHUNK_BYTES_> struct stage_layout {
    typedef C cut;
    static const int X_PIECES = X_PIECES_, W_PIECES = W_PIECES_, CHUNK_BYTES = CHUNK_BYTES_;
    static const int X_BYTES = C::ROWS * X_PIECES * 16, BYTES = X_BYTES + C::COLUMNS * W_PIECES * 16;
};

/* Where a thread reads its share of 16 x 16 bytes by load_matrices, in bytes from the tile's row `row`: matrices are
 * rows 0..7 and 8..15 of the first piece, then of the second (the left factor, `LEFT`); or both pieces of rows 0..7,
 * then of 8..15 (the right one). Pieces 2i and 2i + 1 of the row are at an exclusive or with 32 i, rows 16 further at the
 * same distance. */
template <int PIECES, bool LEFT> __device__ static inline int fragment_at(int row)
{
    int lane = (int)threadIdx.x % 32;
    if (LEFT)
        return piece_place<PIECES>(row + lane % 16, lane / 16) * 16;
    return piece_place<PIECES>(row + lane / 16 * 8 + lane % 8, lane / 8 % 2) * 16;
}

/* What one thread copies of every stage: a piece of some rows of x and of the weights. Rows of x under a tap are found
 * once for the tap. */
template <class L> struct feeder {
    static const int THREADS = L::cut::THREADS;
    static const int X_STEP = THREADS / L::X_PIECES, X_COUNT = L::cut::ROWS / X_STEP;
    static const int W_STEP = THREADS / L::W_PIECES, W_COUNT = L::cut::COLUMNS / W_STEP;
    static_assert(L::cut::ROWS % X_STEP == 0 && L::cut::COLUMNS % W_STEP == 0, "all threads copy equally many pieces");
    static_assert(THREADS % 64 == 0, "so that a thread's pieces are at one place of their lines");
    int lane[X_COUNT];            /* of each row: x's position 0 of its lane, counted over all lanes */
    int y[X_COUNT], x[X_COUNT];   /* of the first tap; y far outside for rows past the last */
    int source[X_COUNT];          /* x's position under the current tap, or -1 outside */
    const unsigned char *weights; /* this thread's piece of its first row */
    int columns;                  /* of its rows of weights, those that exist */
    int tap, chunk;

    __device__ void begin(const struct rounded_args &a, int first_row, int first_column)
    {
        const int OUTSIDE = -(1 << 28);
        int positions = a.finish.y.positions, rows = a.finish.y.lanes * positions;
        for (int i = 0; i < X_COUNT; i++) {
            int row = first_row + (int)threadIdx.x / L::X_PIECES + i * X_STEP;
            bool inside = row < rows;
            int number = inside ? row / positions : 0, position = row - number * positions;
            int top = position / a.taps.out_width, left = position - top * a.taps.out_width;
            lane[i] = number * a.taps.in_height * a.taps.in_width;
            y[i] = inside ? top * a.taps.stride - a.taps.pad : OUTSIDE;
            x[i] = left * a.taps.stride - a.taps.pad;
        }
        int row = first_column + (int)threadIdx.x / L::W_PIECES, piece = (int)threadIdx.x % L::W_PIECES;
        const int PIECES = L::W_PIECES / 2; // of a chunk
        weights = a.weights + row * a.row_bytes + piece / PIECES * L::CHUNK_BYTES + piece % PIECES * 16;
        columns = (a.finish.packed - row + W_STEP - 1) / W_STEP;
        tap = chunk = 0;
        aim(a);
    }

    __device__ void aim(const struct rounded_args &a)
    {
        int ky = tap / a.taps.width, kx = tap - ky * a.taps.width;
        for (int i = 0; i < X_COUNT; i++) {
            int position = position_at(a.taps, y[i] + ky, x[i] + kx);
            source[i] = position < 0 ? -1 : lane[i] + position;
        }
    }

    /* Rows of x from `from`, where each has `row_pieces`, into a stage, from piece `first` on. */
    __device__ void copy_x(unsigned char *stage, const uint4 *from, int row_pieces, int first)
    {
        int piece = (int)threadIdx.x % L::X_PIECES, at = first + piece;
        unsigned char *to = stage + piece_place<L::X_PIECES>((int)threadIdx.x / L::X_PIECES, piece) * 16;
        for (int i = 0; i < X_COUNT; i++) {
            bool inside = source[i] >= 0 && at < row_pieces;
            uint32_t number = inside ? (uint32_t)source[i] * (uint32_t)row_pieces + (uint32_t)at : 0;
            copy_async<16>(to + i * THREADS * 16, from + number, inside);
        }
    }

    /* Enqueues the copies of the current tap's next two chunks, and goes on to the following ones; true: the tap is
     * done, and the caller calls next_tap. */
    __device__ bool copy(unsigned char *stage, const struct rounded_args &a)
    {
        copy_x(stage, a.x, a.row_pieces, chunk / 2 * L::X_PIECES);
        int piece = (int)threadIdx.x % L::W_PIECES;
        unsigned char *to = stage + L::X_BYTES + piece_place<L::W_PIECES>((int)threadIdx.x / L::W_PIECES, piece) * 16;
        const unsigned char *from = weights + (tap * a.chunks + chunk) * L::CHUNK_BYTES;
        bool exists = chunk + piece / (L::W_PIECES / 2) < a.chunks;
        for (int i = 0; i < W_COUNT; i++) {
            bool inside = exists && i < columns;
            copy_async<16>(to + i * THREADS * 16, inside ? from + i * W_STEP * a.row_bytes : a.weights, inside);
        }
        chunk += 2;
        return chunk >= a.chunks;
    }

    __device__ void next_tap(const struct rounded_args &a)
    {
        chunk = 0;
        tap++;
        aim(a);
    }
};

/* ---------------------------------------------------------------------- for launchers */

/* coded_product.cu: the tangents, lanes [first, ..), in codes. */
void coded_product(struct device *device, const struct product *p, int64_t first);

/* Numbers in a position's row of outliers: up to 32, and twice as many bytes as fit in a row of codes' other half. */
static inline int outlier_room(struct gpu_work work)
{
    return work.numbers < 2 * OUTLIERS ? (int)work.numbers / 2 : OUTLIERS;
}

/* encode.cu: lanes [first, first + count) of x, as halves or as codes, into the device's workspace. Codes: the outliers'
 * numbers as well. */
void encode_halves(struct device *device, struct tensor x, int64_t first, int64_t count);
void encode_codes(struct device *device, struct tensor x, int64_t first, int64_t count);

/* For lanes [first, first + count), of halves. */
struct rounded_args rounded_args_of(struct device *device, const struct product *p, int64_t first, int64_t count);

/* Shared memory that a block may have. */
static inline size_t shared_room(const struct device *device)
{
    int capability = ((const struct cuda *)device)->capability;
    return (size_t)(capability < 80                         ? 64
                    : capability == 80                      ? 163
                    : capability == 90 || capability == 100 ? 227
                                                            : 99)
           << 10;
}

template <class L, int STAGES> static inline size_t shared_bytes()
{
    typedef typename L::cut C;
    const int room = finish_room<C::TALL, C::WIDE, C::WARPS>::BYTES, stages = STAGES * L::BYTES;
    return (size_t)(room > stages ? room : stages);
}

/* What a tiling costs: blocks that one processor works through, each by its size. A small one reads its operands more
 * often: `slowness` is in per cent of the time that a large one takes for the same. */
template <class C>
static inline int64_t cost_of(const struct device *device, const struct rounded_args &a, int slowness)
{
    int64_t rows = (int64_t)a.finish.y.lanes * a.finish.y.positions;
    int64_t blocks = blocks_for(rows, C::ROWS) * blocks_for(a.finish.packed, C::COLUMNS);
    return blocks_for(blocks, ((const struct cuda *)device)->processors) * C::ROWS * C::COLUMNS * slowness;
}

#endif
