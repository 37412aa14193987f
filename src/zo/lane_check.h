/* zo/lane_check.h
 *
 * A check at every start that a lane's bits do not depend on its neighbours, on which equal bits for any number of
 * ranks rest (device/device.h): the first lane of a full batch must give the same loss as the last of the batch, and
 * alone. With tangents, the first tangent the same slope, and its picture the same loss.
 *
 * On a CPU, all layers are checked, but with few lanes on pictures of few positions, since a step at full size takes
 * long: 2^blocks a side, so that the UNet's finer levels still have enough of them for all kernels of products.
 * A GPU, which would have to compile more programs for that, is checked at full size.
 *
 * Where ranks share out several pictures' tangents, rank 0 is checked at full size, too: the times of both also tell
 * what a primal lane costs in tangents (gamma of struct share_work). Alone, there is one primal and one tangent; in all
 * batches, as many as they have.
 */
#ifndef ZOODIP_ZO_LANE_CHECK_H
#define ZOODIP_ZO_LANE_CHECK_H

#include "base/error.h"

struct training;

/* *cost: that of a primal in tangents, between 0.3 and 3; 0 on ranks other than 0, if nothing depends on it
 * (rebalance_needs_cost), or if the share is too small to tell. Not collective: agree on the outcome. Uses t->draws and t->slots. */
struct error lane_check(struct training *t, double *cost);

#endif
