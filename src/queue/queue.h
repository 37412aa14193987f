/* queue/queue.h
 *
 * Jobs that are known at the same time: they are checked, given folders, their pictures encoded, and then handed out to
 * the groups of ranks (queue/handout.h), longest first. The model stays loaded from one batch to the next.
 *
 * Invariant: what goes wrong with one job is recorded in its note on rank 0; an error that is returned concerns all
 * jobs.
 */
#ifndef ZOODIP_QUEUE_QUEUE_H
#define ZOODIP_QUEUE_QUEUE_H

#include "queue/handout.h"
#include "queue/display.h"
#include "queue/jobs.h"
#include "pipeline/learning.h"
#include "files/claim.h"

struct queue {
    struct comm *all;
    const struct device_kind *devices;
    int64_t wanted; /* groups; 0: to be chosen for the first batch */
    int64_t only;   /* the number, from 1, of the file's job to learn; 0: all */

    struct pipeline pipeline;
    bool opened, loaded;
    int groups;

    struct jobs jobs; /* of the current batch, as all below */
    struct display display;
    struct claim claim; /* rank 0: of the queue's folder, unless other runs share it */
    struct handout handout;
    struct job *job;           /* the one this rank works on */
    struct learning *learning; /* its training */
    struct job_note current;   /* what the leader reports about it */
    int spoken;                /* where messages go that are not the job's: the original stderr */
    bool quiet;                /* whether they are silenced there */
};

/* Runs the jobs of a text (see jobs_read), the same on all ranks. `resume` is for a file's jobs; a spool's jobs each
 * say it. Collective. The jobs stay for the caller to look at: call queue_clear before the next. */
struct error queue_run(struct queue *b, const struct jobs_source *source, const char *text, int64_t size,
                       const struct text_list *sets, bool resume);
void queue_clear(struct queue *b);

/* Closes the pipeline, too. */
void queue_close(struct queue *b);

#endif
