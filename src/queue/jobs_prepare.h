/* queue/jobs_prepare.h
 *
 * What the pending jobs of a queue need before the first of them begins, in this order, in the pipeline that serves them
 * all. Words and pictures that are wrong fail their job alone. All of it is collective over p->all.
 */
#ifndef ZOODIP_QUEUE_JOBS_PREPARE_H
#define ZOODIP_QUEUE_JOBS_PREPARE_H

#include "base/error.h"
#include "pipeline/pipeline.h"
#include "queue/jobs.h"

/* Reads the words and pictures of all pending jobs. */
struct error jobs_read_subjects(struct jobs *jobs, struct pipeline *p);

/* A GPU's memory is planned before any work is done: the most that any pending job needs must fit; a spool's jobs that do
 * not fit fail by themselves. */
struct error jobs_plan(struct jobs *jobs, struct pipeline *p);

/* Encodes the pictures of all pending jobs, with one VAE. */
struct error jobs_encode(struct jobs *jobs, struct pipeline *p);

#endif
