/* queue/queue.h
 *
 * Many jobs. The list is rank 0's: it checks the jobs and hands each to a group of ranks that is free (queue/handout.h),
 * which learns it (queue/work.h). The model is loaded once, for the first job.
 *
 * Invariant: what goes wrong with one job is in its status on rank 0; an error that is returned concerns all jobs.
 */
#ifndef ZOODIP_QUEUE_QUEUE_H
#define ZOODIP_QUEUE_QUEUE_H

#include <stdint.h>

#include "base/error.h"
#include "cluster/comm.h"
#include "device/device.h"
#include "files/claim.h"
#include "queue/jobs.h"

struct queue;

struct queue_parts {
    struct comm *comm; /* of all ranks */
    const struct device_kind *devices;
    int64_t groups;   /* of ranks; 0: as many as finish the jobs at hand soonest */
    const char *only; /* the file's job to learn (jobs_select); NULL: all */
};

/* Collective, as all of these but queue_cancel. Free with queue_free, which allows NULL and closes the pipeline, too. */
struct error queue_new(struct queue **q, const struct queue_parts *parts);
void queue_free(struct queue *q);

/* Runs the jobs of a file's text, which only rank 0 needs (see jobs_read). They stay for the caller to read. */
struct error queue_run_file(struct queue *q, const struct jobs_source *source, const char *text, int64_t size,
                            enum start start);

/* Jobs that arrive while the queue works, on rank 0: the list may grow in `look`, and only there. */
struct queue_supply {
    struct error (*look)(void *arg);           /* twice a second; an error ends the queue */
    bool (*pauses)(void *arg);                 /* whether no job is to begin now */
    void (*ended)(void *arg, struct job *job); /* a job is done, failed, or waits for room on the disk again */
    const struct claim *claim;                 /* of output.dir, if the caller has it; NULL: the queue claims it */
    void *arg;
};

/* Runs what is supplied until a signal, and returns ERROR_PREEMPTED. `jobs`: begun (jobs_begin), on rank 0; the queue
 * takes them over. */
struct error queue_run_spool(struct queue *q, struct jobs *jobs, const struct jobs_source *source,
                             const struct queue_supply *supply);
struct jobs *queue_jobs(struct queue *q);

/* On rank 0: a job that was added (jobs_add) is judged by what lies in its folder. */
void queue_judge(struct queue *q, struct job *job);

/* On rank 0: the job is not to be learned; if it is under way, it stops after its step, and has a checkpoint. */
void queue_cancel(struct queue *q, struct job *job);

#endif
