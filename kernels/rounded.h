/* kernels/rounded.h
 *
 * Products whose operands are rounded once, in programs with tangents (device/gpu.h): what their files share. encode.cu
 * writes x's rows as the matrix units read them into the op's workspace, rounded_product.cu multiplies halves (or
 * bfloats), coded_product.cu codes of 8 bits.
 *
 * A product is y [M, N] = x [M, K] Wt as in product.cu, K running over (tap, channel). It is processed in stages of 64
 * halves or 128 codes of one tap. All rows of a stage, x's and the weight's, are whole pieces of 16 bytes, which go into shared
 * memory as they lie in memory:
 *
 *     global memory ── copy_async, STAGES ahead ─► shared ── ldmatrix ─► registers (codes widened, if x is halves) ─► mma
 *
 * So of a warp's instructions in a stage about one in three is a product (a matrix unit takes one in four to six).
 */
#ifndef ZOODIP_KERNELS_ROUNDED_H
#define ZOODIP_KERNELS_ROUNDED_H

#include "kernels/operands.h"

struct rounded_args {
    struct finish finish;
    struct taps taps;
    const uint4 *x; /* encoded, [lanes][positions][row_pieces] */
    int row_pieces;
    struct packed_rows weights;
    int chunks; /* of 32 channels, in a tap */
    int column_tiles;
};

/* How a block is cut: DOWN x ACROSS warps, each with TALL x WIDE tiles of 16 rows and 8 packed columns. */
template <int TALL_, int WIDE_, int DOWN_, int ACROSS> struct block_cut {
    static const int TALL = TALL_, WIDE = WIDE_, DOWN = DOWN_, WARPS = DOWN * ACROSS, THREADS = 32 * WARPS;
    static const int ROWS = DOWN * TALL * 16, COLUMNS = ACROSS * WIDE * 8;
    static const int BLOCKS =
        TALL < 4 ? 3 : 1; /* that share a processor: large ones take more than half its registers */
    static_assert(THREADS % 64 == 0, "so that all pieces that a thread copies have one place in their lines");
};
typedef block_cut<4, 4, 2, 4> middle_cut;
typedef block_cut<2, 4, 2, 2> small_cut;

/* A warp's part of its block. */
template <class C> struct warp_place {
    int row, column; /* first ones within the block */

    __device__ warp_place()
    {
        int warp = (int)threadIdx.x / 32;
        row = warp % C::DOWN * C::TALL * 16;
        column = warp / C::DOWN * C::WIDE * 8;
    }
};

/* Where a thread reads its share of 16 x 16 bytes by load_matrices, in bytes from row 0 of the tile: matrices are rows
 * 0..7 and 8..15 of the first piece, then of the second (the left factor); or both pieces of rows 0..7, then of 8..15
 * (the right one). Pieces 2i and 2i + 1 of the row are at an exclusive or with 32 i, and 8 lines further is the same. */
template <int PIECES> __device__ static inline int left_at(int row)
{
    int lane = (int)threadIdx.x % 32;
    return piece_place<PIECES>(row + lane % 16, lane / 16) * 16;
}

template <int PIECES> __device__ static inline int right_at(int row)
{
    int lane = (int)threadIdx.x % 32;
    return piece_place<PIECES>(row + lane / 16 * 8 + lane % 8, lane / 8 % 2) * 16;
}

/* What one thread copies of x in every stage: a piece, of PIECES, of each of some rows. `source` is found anew for each
 * tap. */
template <int PIECES, class C> struct encoded_rows {
    static const int STEP = C::THREADS / PIECES, COUNT = C::ROWS / STEP;
    static_assert(C::ROWS % STEP == 0, "all threads copy equally many pieces");
    int lane[COUNT];        /* of each row: position 0 of its lane, counted over all lanes */
    int y[COUNT], x[COUNT]; /* of the first tap; y far outside for rows past the last */
    int source[COUNT];      /* position under the current tap, or -1 outside */

    __device__ void begin(const struct rounded_args &a, int first_row)
    {
        const int OUTSIDE = -(1 << 28), positions = a.finish.y.positions;
        for (int i = 0; i < COUNT; i++) {
            int row = first_row + (int)threadIdx.x / PIECES + i * STEP;
            bool inside = row < a.finish.y.lanes * positions;
            int number = inside ? row / positions : 0, position = row - number * positions;
            int top = position / a.taps.out_width, left = position - top * a.taps.out_width;
            lane[i] = number * a.taps.in_height * a.taps.in_width;
            y[i] = inside ? top * a.taps.stride - a.taps.pad : OUTSIDE;
            x[i] = left * a.taps.stride - a.taps.pad;
        }
        aim(a.taps, 0);
    }

    __device__ void aim(const struct taps &taps, int tap)
    {
        int ky = tap / taps.width, kx = tap - ky * taps.width;
        for (int i = 0; i < COUNT; i++) {
            int position = position_at(taps, y[i] + ky, x[i] + kx);
            source[i] = position < 0 ? -1 : lane[i] + position;
        }
    }

    /* Enqueues the copies of pieces [first, end) of each position's row, of which `rows` holds row_pieces. */
    __device__ void copy(unsigned char *stage, const uint4 *rows, int row_pieces, int first, int end) const
    {
        int piece = (int)threadIdx.x % PIECES, at = first + piece;
        unsigned char *to = stage + piece_place<PIECES>((int)threadIdx.x / PIECES, piece) * 16;
        for (int i = 0; i < COUNT; i++) {
            bool inside = source[i] >= 0 && at < end;
            uint32_t number = inside ? (uint32_t)source[i] * (uint32_t)row_pieces + (uint32_t)at : 0;
            copy_async<16>(to + i * C::THREADS * 16, rows + number, inside);
        }
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

/* And the codes of w's outlier channels, for products with x's outliers. */
void gather_outlier_weights(struct device *device, struct tensor x, const struct weight *w);

/* For lanes [first, first + count), of halves. */
struct rounded_args rounded_args_of(struct device *device, const struct product *p, int64_t first, int64_t count);

/* That a block asks for: its stages, which later become room for its sums. */
template <class C> static inline size_t shared_bytes(int stages)
{
    const int room = finish_room<C::TALL, C::WIDE, C::WARPS>::BYTES;
    return (size_t)(room > stages ? room : stages);
}

template <class C> static inline int64_t blocks_of(const struct rounded_args &a)
{
    int64_t rows = (int64_t)a.finish.y.lanes * a.finish.y.positions;
    return blocks_for(rows, C::ROWS) * blocks_for(a.weights.rows, C::COLUMNS);
}

/* What a tiling costs: blocks that one processor works through, each by its size. A small one reads its operands more
 * often: `slowness` is in per cent of the time that a large one takes for the same. */
template <class C>
static inline int64_t cost_of(const struct device *device, const struct rounded_args &a, int slowness)
{
    return blocks_for(blocks_of<C>(a), ((const struct cuda *)device)->processors) * C::ROWS * C::COLUMNS * slowness;
}

#endif
