/* zo/rebalance.h
 *
 * Moves lanes between two steps from slow ranks to ranks that wait for them (cluster/balance.h says how many). A lane's
 * loss has the same bits whichever rank evaluates it. A GPU keeps its lanes: its memory is planned for them.
 */
#ifndef ZOODIP_ZO_REBALANCE_H
#define ZOODIP_ZO_REBALANCE_H

#include "base/error.h"

struct training;

/* After a step, by the times per unit of cost that ranks exchanged with their losses. Does nothing where a step is one
 * program (exchange_on_devices). Collective. */
struct error rebalance_lanes(struct training *t);

#endif
