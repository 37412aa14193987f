/* cluster/share.h
 *
 * Sharing out numbered work: rank r of `size` gets a contiguous share, shares differ by at most one, the larger ones
 * come first. If there is less work than ranks, the last ranks get none.
 *
 * Invariant: the shares of ranks 0 .. size-1, in order, make up 0 .. count-1.
 */
#ifndef ZOODIP_CLUSTER_SHARE_H
#define ZOODIP_CLUSTER_SHARE_H

#include <stdint.h>

struct share {
    int64_t first, count;
};

struct share share_of(int64_t count, int rank, int size);

/* shares [size] for ranks that need pace[r] > 0 seconds per piece, such that the slowest share takes as little time as
 * possible. Every rank gets a piece, so that its pace stays known; if there are fewer pieces than ranks, shares are as
 * above. */
void shares_by_pace(int64_t count, const double *pace, int size, struct share *shares);

#endif
