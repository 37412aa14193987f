/* cluster/share.h
 *
 * Which of a number of equal pieces of work are a rank's: a contiguous share, sizes differing by one at most, none for ranks
 * beyond the pieces.
 */
#ifndef ZOODIP_CLUSTER_SHARE_H
#define ZOODIP_CLUSTER_SHARE_H

#include <stdint.h>

struct share {
    int64_t first, count;
};

struct share share_of(int64_t pieces, int rank, int size);

#endif
