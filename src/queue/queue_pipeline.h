/* queue/queue_pipeline.h
 *
 * The pipeline that serves all jobs of a queue, one batch after another: the first job that can be learned opens it, the
 * ranks split into groups, and the model is loaded, each of it once. All functions but the last are collective over all
 * ranks.
 */
#ifndef ZOODIP_QUEUE_QUEUE_PIPELINE_H
#define ZOODIP_QUEUE_QUEUE_PIPELINE_H

#include <stdbool.h>

#include "base/error.h"
#include "pipeline/pipeline.h"
#include "queue/jobs.h"

/* Starts zeroed. */
struct queue_pipeline {
    struct pipeline pipeline;
    struct config config; /* a copy of the one that opened it, whose timeout and output.dir count for all jobs */
    bool opened, loaded;  /* the pipeline; text encoder and UNet */
    int groups;           /* 0: the ranks have not been split yet */
};

/* The pipeline for the first pending job whose model can be opened; those before it fail if they are a spool's, and in a
 * file, whose jobs need the same model, that is an error. Not opened, without an error: no job is left. */
struct error queue_pipeline_open(struct queue_pipeline *q, struct jobs *jobs, struct comm *all,
                                 const struct device_kind *devices);

/* Splits the ranks into groups: so many, or, if that is 0, those that finish the jobs soonest. */
struct error queue_pipeline_divide(struct queue_pipeline *q, const struct jobs *jobs, int64_t groups);

/* Loads text encoder and UNet. */
struct error queue_pipeline_load(struct queue_pipeline *q);

/* Also allowed if it is not opened, which it is not afterwards. */
void queue_pipeline_close(struct queue_pipeline *q);

#endif
