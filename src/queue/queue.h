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

struct batch {
    struct comm *all;
    int64_t wanted; /* groups; 0: to be chosen for the first batch */
    int64_t only;   /* the number, from 1, of the file's job to learn; 0: all */

    struct workshop workshop;
    bool opened, loaded;
    int groups;

    struct jobs jobs; /* of the current batch, as all below */
    struct board board;
    struct claim claim; /* rank 0: of the queue's folder, unless other runs share it */
    struct queue queue;
    struct job *job;         /* the one this rank works on */
    struct lesson *lesson;   /* its training */
    struct job_note current; /* what the leader reports about it */
    int spoken;              /* where messages go that are not the job's: the original stderr */
    bool quiet;              /* whether they are silenced there */
};

/* Runs the jobs of a text (see jobs_read), the same on all ranks. `resume` is for a file's jobs; a spool's jobs each
 * say it. Collective. The jobs stay for the caller to look at: call batch_clear before the next. */
struct error batch_run(struct batch *b, const struct jobs_source *source, const char *text, int64_t size,
                       const struct text_list *sets, bool resume);
void batch_clear(struct batch *b);

/* Closes the workshop, too. */
void batch_close(struct batch *b);

#endif
