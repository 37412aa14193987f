/* queue/queue.h
 *
 * Many jobs, a batch at a time: the jobs of a batch are checked and given folders, their pictures are encoded, and then
 * they are handed out to groups of ranks (queue/handout.h), longest first. The model stays loaded for the next batch.
 *
 * Invariant: what goes wrong with one job is in its status on rank 0; an error that is returned concerns all jobs.
 */
#ifndef ZOODIP_QUEUE_QUEUE_H
#define ZOODIP_QUEUE_QUEUE_H

#include <stdint.h>

#include "base/error.h"
#include "cluster/comm.h"
#include "device/device.h"
#include "queue/jobs.h"

struct queue;

struct queue_parts {
    struct comm *comm; /* of all ranks */
    const struct device_kind *devices;
    int64_t groups;   /* of ranks; 0: as many as finish the first batch soonest */
    const char *only; /* the number, from 1, or the name of the file's job to learn; NULL: all */
};

/* Collective, as all of these. Free with queue_free, which allows NULL and closes the pipeline, too. */
struct error queue_new(struct queue **q, const struct queue_parts *parts);
void queue_free(struct queue *q);

/* Runs the jobs of a text (see jobs_read), the same on all ranks. `start` is for a file's jobs; a spool's jobs each
 * say theirs. The jobs stay for the caller to read: call queue_clear before the next batch. */
struct error queue_run(struct queue *q, const struct jobs_source *source, const char *text, int64_t size,
                       const struct text_list *sets, enum start start);
const struct jobs *queue_jobs(const struct queue *q);
void queue_clear(struct queue *q);

#endif
