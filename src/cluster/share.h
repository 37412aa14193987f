/* cluster/share.h
 *
 * Sharing out numbered work: rank r of `size` gets a contiguous share, shares differ by at most one, the larger ones
 * come first. Where there is less work than ranks, the last ranks get none.
 *
 * Invariant: the shares of ranks 0 .. size-1, put one behind the other, are 0 .. count-1.
 */
#ifndef ZOODIP_CLUSTER_SHARE_H
#define ZOODIP_CLUSTER_SHARE_H

#include <stdint.h>

struct share {
    int64_t first, count;
};

struct share share_of(int64_t count, int rank, int size);

/* shares [size] for ranks of which a piece takes pace[r] > 0 seconds: the longest share takes as short as it can. Every
 * rank gets a piece, so that its pace stays known; where there are not as many pieces, shares are as above. */
void shares_by_pace(int64_t count, const double *pace, int size, struct share *shares);

#endif
