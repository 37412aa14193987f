/* cluster/share.h
 *
 * Sharing out numbered work: every rank gets a contiguous share of it.
 *
 * Pieces of equal cost (the lanes of differences, validation's draws): on equal ranks shares differ by at most one, the
 * larger ones come first.
 *
 * Pieces in groups (tangents, of which n consecutive ones belong to a picture): every rank that holds a tangent of a
 * picture also computes the picture's primal lane, which costs as much as gamma tangents. So m tangents that belong to
 * k pictures take rank r
 *
 *     pace_r (gamma k + m) seconds,
 *
 * and shares are those contiguous ones, in the order of ranks, whose slowest takes as little time as possible. They are
 * found by filling: within a given time every rank takes as much as it can, which leaves the fewest pieces to the ranks
 * after it, since a share costs no less than any part of it; bisection finds the shortest time in which nothing
 * remains.
 * Tangents are numbered by picture, not by direction, because a share then touches the fewest pictures.
 *
 * Every rank gets a piece, so that its pace stays known; if there is less work than ranks, the first ranks get a piece
 * each and the last ranks none.
 *
 * Invariant: the shares of ranks 0 .. size-1, in order, make up 0 .. count-1.
 */
#ifndef ZOODIP_CLUSTER_SHARE_H
#define ZOODIP_CLUSTER_SHARE_H

#include <stdint.h>

struct share {
    int64_t first, count;
};

/* Work to be shared out. */
struct share_work {
    int64_t pieces;
    int64_t group; /* pieces of a group, of which there is a whole number; 0: pieces of equal cost */
    double gamma;  /* the cost of touching a group, in pieces; unused without groups */
};

/* Pieces of equal cost on equal ranks. */
struct share share_of(int64_t count, int rank, int size);

/* What a share of the work costs, in pieces: gamma k + m. */
double share_cost(const struct share_work *work, struct share share);

/* shares [size] for ranks that need pace[r] > 0 seconds per unit of cost, such that the slowest share takes as little
 * time as possible. The same inputs give the same shares on every rank. */
void shares_by_pace(const struct share_work *work, const double *pace, int size, struct share *shares);

#endif
