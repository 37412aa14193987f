/* queue/queue_pipeline.h
 *
 * The pipeline that serves all jobs of a queue: it is opened for the first one, the ranks split into groups, and the
 * model is loaded, each of it once. All functions but the last are collective over all ranks.
 */
#ifndef ZOODIP_QUEUE_QUEUE_PIPELINE_H
#define ZOODIP_QUEUE_QUEUE_PIPELINE_H

#include <stdbool.h>

#include "base/error.h"
#include "pipeline/pipeline.h"

/* Starts zeroed. */
struct queue_pipeline {
    struct pipeline pipeline;
    struct config config; /* a copy of the one that opened it, whose timeout counts for all jobs */
    bool opened, loaded;  /* the pipeline; text encoder and UNet */
    int groups;           /* 0: the ranks have not been split yet */
};

/* Not opened after an error. */
struct error queue_pipeline_open(struct queue_pipeline *q, const struct config *config, struct comm *all,
                                 const struct device_kind *devices);

/* Splits the ranks into so many groups. */
struct error queue_pipeline_divide(struct queue_pipeline *q, int groups);

/* Loads text encoder and UNet. */
struct error queue_pipeline_load(struct queue_pipeline *q);

/* Also allowed if it is not opened, which it is not afterwards. */
void queue_pipeline_close(struct queue_pipeline *q);

#endif
