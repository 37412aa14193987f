/* zo/rebalance.h
 *
 * Moves lanes between two steps from slow ranks to ranks that wait for them (cluster/balance.h says how many). A lane's
 * loss has the same bits whichever rank evaluates it. A GPU keeps its lanes: its memory is planned for them.
 */
#ifndef ZOODIP_ZO_REBALANCE_H
#define ZOODIP_ZO_REBALANCE_H

#include <stdbool.h>

#include "base/error.h"

struct training;

/* After a step, by the times per unit of cost that ranks exchanged with their losses. Does nothing where a step is one
 * program (exchange_on_devices). Collective. */
struct error rebalance_lanes(struct training *t);

/* Before the first step, by gamma of struct share_work: what a primal lane costs in tangents, as rank 0 has measured it
 * (0: it could not). Collective. */
struct error rebalance_by_cost(struct training *t, double gamma);

/* A line where a step has fewer tangents than there are ranks. */
void rebalance_advise(const struct training *t);

/* Whether shares on this rank depend on that cost and may follow it. */
bool rebalance_needs_cost(const struct training *t);

#endif
