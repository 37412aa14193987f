/* kernels/banks.h
 *
 * Where tiles lie in shared memory. It has 32 banks of 4 bytes, so a line of 128 bytes holds eight pieces of 16, and
 * what a warp reads or writes at a time (128 bytes) takes one step if no two parts of it are in the same bank. In the
 * plain order a column of a tile is a column of banks. So the pieces of a line change places, by an exclusive or:
 *
 *     line      where its pieces 0 1 2 3 4 5 6 7 lie
 *     0                          0 1 2 3 4 5 6 7
 *     1                          7 6 5 4 3 2 1 0
 *     2                          2 3 0 1 6 7 4 5
 *     3                          5 4 7 6 1 0 3 2
 *     4                          1 0 3 2 5 4 7 6
 *     5                          6 7 4 5 2 3 0 1
 *     6                          3 2 1 0 7 6 5 4
 *     7                          4 5 6 7 0 1 2 3
 *
 * Then these are in different banks, for rows of 16 to 128 bytes, and are all that kernels ask for:
 *
 *     one piece of rows 8i..8i+7                      ldmatrix
 *     pieces 0..3, or 0, 1, 4, 5, of rows 2i, 2i+1    float4 of two rows: x of products, gated sums
 *     pieces 2j, 2j+1 of rows 4i..4i+3, by 8 bytes    the sums of a tile, as the matrix units leave them
 */
#ifndef ZOODIP_KERNELS_BANKS_H
#define ZOODIP_KERNELS_BANKS_H

#include "kernels/ptx.h"

/* Number of 16-byte pieces before piece `piece` of row `row`, in a tile whose rows have 1, 2, 4 or 8k of them. */
template <int PIECES> __device__ static inline int piece_place(int row, int piece)
{
    int line = PIECES < 8 ? row * PIECES / 8 : row;
    return (row * PIECES + piece) ^ ((line & 1) * 7 ^ (line & 2) ^ (line >> 2 & 1));
}

#endif
