/* commands/batch.h
 *
 * Jobs that are known together, learned one after the other: checked, given folders, their pictures encoded, then
 * handed out to the groups of ranks (cluster/queue.h), longest first. The model stays loaded from one batch to the
 * next.
 *
 * Invariant: whatever goes wrong with a job is found in its note on rank 0; what comes back as an error concerns them
 * all.
 */
#ifndef ZOODIP_COMMANDS_BATCH_H
#define ZOODIP_COMMANDS_BATCH_H

#include "cluster/queue.h"
#include "commands/board.h"
#include "commands/jobs.h"
#include "commands/lesson.h"
#include "commands/options.h"
#include "files/claim.h"

struct batch {
    struct comm *all;
    int64_t wanted; /* groups; 0: chosen for the first batch */
    int64_t only;   /* of a file's jobs, the number from 1 on of the one to learn; 0: all */

    struct workshop workshop;
    bool opened, loaded;
    int groups;

    struct jobs jobs; /* of the batch under way, as all below */
    struct board board;
    struct claim claim; /* rank 0: of the queue's folder, unless other runs share it */
    struct queue queue;
    struct job *job;         /* the one this rank works on */
    struct lesson *lesson;   /* its training */
    struct job_note current; /* what the leader tells of it */
    int spoken;              /* where messages go that are not the job's: stderr, or what stood there before */
    bool quiet;              /* whether they are silenced there */
};

/* Runs the jobs of a text (see jobs_read), the same on all ranks. `resume` is for a file's jobs; a spool's say it
 * themselves. Collective. The jobs stay for the caller to look at: batch_clear before the next. */
struct error batch_run(struct batch *b, enum jobs_kind kind, const char *source, const char *text, int64_t size,
                       const struct option_values *sets, bool resume);
void batch_clear(struct batch *b);

/* The workshop too. */
void batch_close(struct batch *b);

#endif
