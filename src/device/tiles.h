/* device/tiles.h
 *
 * Weights in the order in which matrix units read them: how the CUDA device lays a weight out in memory. Plain C, so
 * that a GPU's memory can be planned on a machine without one.
 *
 * A weight is `rows` packed rows of K = taps x channels numbers; channels are padded with zeros to whole chunks of 32,
 * and K runs over (tap, channel). In a chunk, a lane of a warp (t = lane % 4) reads channels 4t..4t+3 of each half, the
 * same as in the float4 that it reads of x (kernels/product.cu):
 *
 *     8 bits    32 bytes: the codes in order
 *     4 bits    16 bytes: word t holds channels 4t..4t+3 in its low nibbles and 16+4t..16+4t+3 in its high ones
 *     16 bits   64 bytes: of each sixteen, first every lane's channels 4t, 4t+1, then every lane's 4t+2, 4t+3
 *     32 bits   128 bytes: as 16 bits: the rounded numbers, then what rounding took off
 *
 * Of a group of 4-bit codes a word keeps two halves, the scale and the value of code 8: value = scale * (code - 8) +
 * middle. The middle is small even where the shift (the group's least value) is not, so rounding it costs little.
 *
 * 16 and 32-bit rows are scaled by a power of two, which becomes part of the row's scale: halves range only from 6e-8
 * to 65504. A gated layer's rows are in groups of sixteen: eight values, then their eight gates.
 */
#ifndef ZOODIP_DEVICE_TILES_H
#define ZOODIP_DEVICE_TILES_H

#ifdef __cplusplus
extern "C" {
#endif

#include "device/backend.h"

enum { TILE_DEPTH = 32 };

enum tile_kind { TILE_4, TILE_8, TILE_16, TILE_32 };

struct tile_layout {
    enum tile_kind kind;
    int64_t rows, chunks; /* packed rows; chunks of 32 channels in a tap */
    int64_t row_bytes;
    int64_t group, groups_per_row; /* 4 bits: numbers of a group in the file's order; 0: no groups */
};

struct tile_layout tile_layout_of(const struct weight *w);

/* Sets the pointers of w for parts that begin at `at` (may be NULL); returns the bytes. Norms are gain and bias in
 * F32. */
int64_t tile_place(struct weight *w, char *at);

/* Packs row `row` (of layout.rows) of a product's weight. `scratch` has room for tile_scratch(w) bytes. */
int64_t tile_scratch(const struct weight *w);
void tile_pack_row(const struct weight *w, const struct weight_source *source, int64_t row, void *scratch);

#ifdef __cplusplus
}
#endif

#endif
