/* zo/tangent_batches.h
 *
 * How a rank's tangents are put into batches of one shape. A step has n tangents for each picture, numbered by picture:
 * tangent b n + i - 1 is direction i = 1..n of picture b. A rank has a contiguous share of them (cluster/share.h), and
 * batch j has `tangents` of them, from share.first + j * tangents on. Each batch also evaluates its tangents' pictures,
 * so a picture whose tangents are in two batches is evaluated in both.
 *
 * Invariant: no batch has more pictures than `pictures`, nor more lanes in all than it may have.
 */
#ifndef ZOODIP_ZO_TANGENT_BATCHES_H
#define ZOODIP_ZO_TANGENT_BATCHES_H

#include <stdint.h>

#include "cluster/share.h"

struct tangent_batches {
    int64_t batches;
    int64_t tangents, pictures; /* of a batch; its lanes are their sum */
};

/* Those that cost least, with up to `most` lanes a batch (at least 2), for a share that is not empty. A batch that
 * holds less evaluates some lanes again, and each batch unpacks the weights, which counts as a lane. */
struct tangent_batches tangent_batches_of(struct share share, int64_t n, int64_t most);

#endif
