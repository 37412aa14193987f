/* queue/work.h
 *
 * A group of ranks learns one job, from the text that rank 0 handed out to its outcome: word and photos are read, its
 * folder begun, its photos encoded, the word learned. Nothing of a job is in memory before it begins or after it ends.
 *
 * Errors are the job's: they end up in its status, which its group's leader reports.
 */
#ifndef ZOODIP_QUEUE_WORK_H
#define ZOODIP_QUEUE_WORK_H

#include "pipeline/learning.h"
#include "queue/job_log.h"
#include "queue/jobs.h"

struct work {
    const struct jobs *jobs; /* borrowed, as the next two */
    struct pipeline *pipeline;
    void (*tick)(void *arg); /* whenever a step is done, or other work goes on; on every rank of the group */
    void *arg;

    /* Results, kept up to date while it runs: what the leader knows, and at the end reports. */
    struct job_status status;
    struct job job;
    struct job_log log;

    /* private */
    struct subject subject;
    struct learning learning;
    bool begun; /* in its folder */
};

/* Learns the job of an assignment; its place in the list is status.job, its group status.group. Collective in the group;
 * w is zeroed but for these and what is borrowed. Free with work_free. */
void work_run(struct work *w, const char *assignment);
void work_free(struct work *w);

/* All ranks are about to be ended, for this reason: so that who watches the job is told. */
void work_abort(struct work *w, const char *text);

/* While it runs, between two steps: looks at what it does besides them. */
void work_look(struct work *w);

#endif
