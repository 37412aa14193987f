/* zo/lane_check.h
 *
 * A check at every start that a lane's bits do not depend on its neighbours, on which equal bits for any number of
 * ranks rest (device/device.h): the first lane of a full batch must give the same loss as the last of the batch, and
 * alone.
 */
#ifndef ZOODIP_ZO_LANE_CHECK_H
#define ZOODIP_ZO_LANE_CHECK_H

#include "base/error.h"

struct training;

/* Not collective: agree on the outcome. Uses t->draws and t->slots. */
struct error lane_check(struct training *t);

#endif
