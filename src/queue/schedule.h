/* queue/schedule.h
 *
 * In which order a queue's jobs are learned, by how many groups of ranks, and how long that will take. Longest first: the
 * shortest jobs then fill the gaps at the end.
 */
#ifndef ZOODIP_QUEUE_SCHEDULE_H
#define ZOODIP_QUEUE_SCHEDULE_H

#include "queue/jobs.h"

/* The pending jobs, longest first -> order [count of jobs]; returns how many. */
int64_t schedule_order(const struct jobs *jobs, int64_t *order);

/* How many groups `ranks` ranks should form to finish the pending jobs soonest. `unsettled`: the derivative that jobs
 * with zo.derivative auto will take. */
int schedule_groups(const struct jobs *jobs, int ranks, enum derivative unsettled);

/* Seconds until `groups` groups will have ended all jobs, by the pace of those that this run has learned so far; NAN if
 * nothing is known of it, or without jobs. */
double schedule_left(const struct jobs *jobs, int groups);

#endif
