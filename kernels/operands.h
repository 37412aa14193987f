/* kernels/operands.h
 *
 * A product's two factors on their way from memory into the matrix units (product.cu), a chunk of 32 channels of one tap
 * at a time: x_rows copies a tile's rows of x, w_rows its rows of weights, and load_x and weights<..>::load make
 * fragments of them (kernels/ptx.h). x stays float until then, and weights as they are in memory, 4 to 32 bits wide.
 */
#ifndef ZOODIP_KERNELS_OPERANDS_H
#define ZOODIP_KERNELS_OPERANDS_H

#include "kernels/product.h"

enum { DEPTH = TILE_DEPTH, ROW_PIECES = DEPTH / 4 }; /* of a chunk: numbers, and 16-byte pieces of x */

/* Where in K = (tap, channel) a chunk begins. */
struct place_in_k {
    int tap, channel;

    __device__ void begin(int chunk, int chunks) /* chunks: of a tap */
    {
        tap = chunk / chunks;
        channel = (chunk - tap * chunks) * DEPTH;
    }

    /* To the next chunk; true: it begins another tap. */
    __device__ bool advance(int chunks)
    {
        channel += DEPTH;
        if (channel < chunks * DEPTH)
            return false;
        channel = 0;
        tap++;
        return true;
    }
};

/* ---------------------------------------------------------------------- x */

/* What one thread copies of x in every chunk: a piece of each of some rows. `from` is found anew for each tap. */
template <int ROWS, int THREADS, bool ALIGNED> struct x_rows {
    static const int STEP = THREADS / ROW_PIECES, COUNT = ROWS / STEP;
    const float *lane[COUNT]; /* first number of each row's lane */
    int y[COUNT], x[COUNT];   /* of the first tap; y far outside for rows past the last */
    const float *from[COUNT]; /* this thread's piece of the tap's first chunk; NULL: outside */

    __device__ void begin(const struct view<const float> &view, const struct taps &taps, int first_row)
    {
        const int OUTSIDE = -(1 << 28), positions = taps.out_height * taps.out_width;
        for (int i = 0; i < COUNT; i++) {
            int row = first_row + (int)threadIdx.x / ROW_PIECES + i * STEP;
            bool inside = row < view.lanes * positions;
            int number = inside ? row / positions : 0, position = row - number * positions;
            int top = position / taps.out_width, left = position - top * taps.out_width;
            lane[i] = view.data + number * view.lane_stride;
            y[i] = inside ? top * taps.stride - taps.pad : OUTSIDE;
            x[i] = left * taps.stride - taps.pad;
        }
    }

    __device__ void aim(const struct view<const float> &view, const struct taps &taps, int tap)
    {
        int ky = tap / taps.width, kx = tap - ky * taps.width;
        for (int i = 0; i < COUNT; i++) {
            int position = position_at(taps, y[i] + ky, x[i] + kx);
            const float *row = lane[i] + (int64_t)position * view.row_stride;
            from[i] = position < 0 ? NULL : row + (int)threadIdx.x % ROW_PIECES * 4;
        }
    }

    /* Enqueues the copies of the chunk at `channel` into `to` [ROWS][DEPTH]. */
    __device__ void copy(float *to, const struct view<const float> &view, int channel) const
    {
        int piece = (int)threadIdx.x % ROW_PIECES, left = view.channels - channel - piece * 4;
        for (int i = 0; i < COUNT; i++) {
            float *at = to + piece_place<ROW_PIECES>((int)threadIdx.x / ROW_PIECES + i * STEP, piece) * 4;
            bool inside = from[i] && left > 0;
            const int NUMBERS = ALIGNED ? 4 : 1; // at a time: aligned channels are whole pieces
            for (int j = 0; j < 4; j += NUMBERS) {
                bool exists = inside && j < left;
                copy_async<NUMBERS * 4>(at + j, exists ? from[i] + channel + j : view.data, exists);
            }
        }
    }
};

/* A 16 x 16 tile of x as pairs: rows `row` + g and + 8, the lane's four k of step `step`. */
template <enum operand O>
__device__ static inline void load_x(uint32_t (&hi)[4], uint32_t (&lo)[4], const float *x, int row, int step)
{
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; half++) {
        float4 v = *(const float4 *)(x + piece_place<ROW_PIECES>(row + half * 8 + g, step * 4 + t) * 4);
        split_two<O>(v.x, v.y, &hi[half], &lo[half]);
        split_two<O>(v.z, v.w, &hi[half + 2], &lo[half + 2]);
    }
}

/* ---------------------------------------------------------------------- weights */

/* Packed rows of weights (device/tiles.h). */
struct packed_rows {
    const unsigned char *data;
    int64_t row_bytes;
    int rows;
};

/* Four 16 x 8 tiles of weights for a step, half a chunk; `low` only for pairs of floats. */
struct fragments {
    uint32_t high[4][2], low[4][2];
};

/* 4 bits: the groups' scales and middles. Groups follow the file's order (channel, tap), in which a chunk's 32 numbers
 * are `taps` apart. So a chunk meets only a few groups, whose words wait in shared memory, in slots: slot s is the group
 * of number first + s x pitch, `first` being the chunk's first number. */
struct groups {
    const uint32_t *words; /* [packed rows][of_row] scale and middle, two halves */
    int of_row, taps;
    int slots_log2;             /* of a chunk; 0: all its numbers share one group */
    struct divisor size, pitch; /* a group's numbers; the same, or the taps if these are more */

    __device__ int slots() const
    {
        return 1 << slots_log2;
    }

    /* The group of a number; padding uses the last one. */
    __device__ int group_of(int number) const
    {
        return min(divide(number, size), of_row - 1);
    }

    /* The slot of the chunk's channel j. */
    __device__ int slot_of(int first, int j) const
    {
        int past = taps >= size.by ? 0 : first - divide(first, size) * size.by; // of the first group's numbers
        return divide(past + j * taps, pitch);
    }
};

/* A slot's words lie together, slots 8 banks apart: the eight columns and four k of a warp are in different banks. */
template <int COLUMNS> struct slot {
    static const int WORDS = COLUMNS + 8;
};

/* What one thread copies of the weights in every chunk: the first PIECES of a row's, of which memory holds IN_MEMORY. */
template <int PIECES, int COLUMNS, int THREADS, int IN_MEMORY = PIECES> struct w_rows {
    static const int STEP = THREADS / PIECES, COUNT = (COLUMNS + STEP - 1) / STEP;
    const unsigned char *from; /* its piece of its first row's first chunk; the others are STEP rows apart */
    int first, left;           /* row of the tile; rows from its own on */

    __device__ void begin(const struct packed_rows &rows, int first_column)
    {
        int row = first_column + (int)threadIdx.x / PIECES;
        from = rows.data + row * rows.row_bytes + (int)threadIdx.x % PIECES * 16;
        first = first_column;
        left = rows.rows - row;
    }

    /* Enqueues the copies of chunk `chunk` (of all taps) into `to` [COLUMNS][PIECES]. */
    __device__ void copy(unsigned char *to, const struct packed_rows &rows, int chunk) const
    {
        int row = (int)threadIdx.x / PIECES, piece = (int)threadIdx.x % PIECES;
        for (int i = 0; i < COUNT && (COLUMNS % STEP == 0 || row < COLUMNS); i++) {
            bool inside = i * STEP < left;
            const unsigned char *at = from + i * STEP * rows.row_bytes + chunk * (IN_MEMORY * 16);
            copy_async<16>(to + piece_place<PIECES>(row + i * STEP, piece) * 16, inside ? at : rows.data, inside);
        }
    }

    /* And of its groups' words into `to` [slots][slot<COLUMNS>::WORDS]. */
    __device__ void copy_groups(uint32_t *to, const struct packed_rows &rows, const struct groups &g,
                                struct place_in_k at) const
    {
        int number = at.channel * g.taps + at.tap;
#pragma unroll 1
        for (int i = (int)threadIdx.x; i < COLUMNS << g.slots_log2; i += THREADS) {
            int row = i >> g.slots_log2, s = i & (g.slots() - 1), packed = min(first + row, rows.rows - 1);
            const uint32_t *word = g.words + (int64_t)packed * g.of_row + g.group_of(number + s * g.pitch.by);
            copy_async<4>(to + s * slot<COLUMNS>::WORDS + row, word, true);
        }
    }
};

/* A chunk of a tile's weights in shared memory. */
struct weights_chunk {
    const unsigned char *rows;   /* [columns][PIECES] */
    const struct groups *groups; /* 4 bits */
    const uint32_t *words;       /* [slots][slot_words] */
    int slot_words;
    struct place_in_k at;
};

/* Makes a warp's fragments of step `step`, from the tile's column `column` on. */
template <enum operand O, enum tile_kind W> struct weights;

/* A matrix for each tile, from which a lane gets its four codes. */
template <enum operand O> struct weights<O, TILE_8> {
    static const int PIECES = 2;

    __device__ static void load(struct fragments &f, const struct weights_chunk &c, int column, int step)
    {
        uint32_t codes[4];
        load_matrices(codes, c.rows + piece_place<PIECES>(column + (int)threadIdx.x % 32, step) * 16);
        for (int i = 0; i < 4; i++)
            widen_codes<O>(codes[i], f.high[i]);
    }
};

/* Fragments as they are in memory, in one plane or two. */
template <int PLANES> struct plain_weights {
    static const int PIECES = 4 * PLANES;

    __device__ static void load(struct fragments &f, const struct weights_chunk &c, int column, int step)
    {
        int lane = (int)threadIdx.x % 32, matrix = lane / 8;
        uint32_t words[4];
        for (int plane = 0; plane < PLANES; plane++) {
            uint32_t(*to)[2] = plane ? f.low : f.high;
            for (int pair = 0; pair < 2; pair++) {
                int row = column + (pair * 2 + matrix / 2) * 8 + lane % 8;
                load_matrices(words, c.rows + piece_place<PIECES>(row, plane * 4 + step * 2 + matrix % 2) * 16);
                for (int i = 0; i < 4; i++)
                    to[pair * 2 + i / 2][i % 2] = words[i];
            }
        }
    }
};
template <enum operand O> struct weights<O, TILE_16> : plain_weights<1> {
};
template <enum operand O> struct weights<O, TILE_32> : plain_weights<2> {
};

/* A matrix for each tile, whose words hold a lane's codes of both steps, two a byte. */
template <enum operand O> struct weights<O, TILE_4> {
    static const int PIECES = 1;

    __device__ static void load(struct fragments &f, const struct weights_chunk &c, int column, int step)
    {
        int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
        uint32_t codes[4];
        load_matrices(codes, c.rows + piece_place<PIECES>(column + lane, 0) * 16);
        const uint32_t *words = c.words + column + g;
        if (c.groups->slots_log2 == 0) {
            for (int i = 0; i < 4; i++)
                for (int pair = 0; pair < 2; pair++)
                    f.high[i][pair] = widen_nibbles<O>(codes[i], step * 2 + pair, words[i * 8], words[i * 8]);
            return;
        }
        int first = c.at.channel * c.groups->taps + c.at.tap;
        for (int pair = 0; pair < 2; pair++) { // of channels
            int j = step * 16 + t * 4 + pair * 2;
            const uint32_t *low = words + c.groups->slot_of(first, j) * c.slot_words;
            const uint32_t *high = words + c.groups->slot_of(first, j + 1) * c.slot_words;
            for (int i = 0; i < 4; i++)
                f.high[i][pair] = widen_nibbles<O>(codes[i], step * 2 + pair, low[i * 8], high[i * 8]);
        }
    }
};

/* ---------------------------------------------------------------------- for launchers */

static inline struct packed_rows packed_rows_of(const struct weight *w)
{
    struct tile_layout l = tile_layout_of(w);
    return {(const unsigned char *)w->data, l.row_bytes, (int)l.rows};
}

static inline struct groups groups_of(const struct weight *w)
{
    struct tile_layout l = tile_layout_of(w);
    struct groups g = {};
    if (!l.group)
        return g;
    int taps = (int)(w->kh * w->kw), size = (int)l.group, most = 32; // a group for every channel
    g.words = w->groups;
    g.of_row = (int)l.groups_per_row;
    g.taps = taps;
    g.size = divisor_of(size);
    g.pitch = divisor_of(taps < size ? size : taps);
    if (g.of_row == 1 || (taps == 1 && size % DEPTH == 0))
        most = 1;
    else if (taps < size)
        most = (size - 1 + (DEPTH - 1) * taps) / size + 1;
    while (1 << g.slots_log2 < most)
        g.slots_log2++;
    return g;
}

#endif
