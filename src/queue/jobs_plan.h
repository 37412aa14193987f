/* queue/jobs_plan.h
 *
 * A GPU's memory is planned before any work is done.
 */
#ifndef ZOODIP_QUEUE_JOBS_PLAN_H
#define ZOODIP_QUEUE_JOBS_PLAN_H

#include "pipeline/pipeline.h"
#include "queue/jobs.h"

/* Whether the most that any of a file's pending jobs needs of a GPU fits: one job is read for each combination of the keys
 * that memory depends on. Jobs that cannot be read are passed over. Does nothing without a GPU. Collective over all ranks,
 * before they are divided; `jobs` as rank 0 has them. */
struct error jobs_plan(const struct jobs *jobs, struct pipeline *p);

#endif
