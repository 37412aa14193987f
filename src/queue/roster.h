/* queue/roster.h
 *
 * The list of a queue's jobs while it works, on rank 0: which job is next, and what becomes of one that has ended. Its
 * folder, its summary and page, what is shown of it, and the users' programs that hear of a job's end.
 */
#ifndef ZOODIP_QUEUE_ROSTER_H
#define ZOODIP_QUEUE_ROSTER_H

#include "files/claim.h"
#include "files/on_end.h"
#include "pipeline/pipeline.h"
#include "queue/display.h"
#include "queue/handout.h"
#include "queue/queue.h"
#include "queue/summary.h"

struct roster {
    struct jobs *jobs;          /* borrowed, as the next three */
    struct pipeline *pipeline;  /* NULL: is not opened yet */
    struct handout *handout;    /* NULL: nothing is handed out */
    struct queue_supply supply; /* zero for a file */
    bool shared;                /* with runs of other jobs of the same file, and so is the folder */
    struct results results;
    struct error lost; /* what ended the supply */

    /* private */
    int64_t *order; /* [order_count] of a file's jobs; NULL: in the order of their arrival */
    int64_t order_count, next;
    double look_due; /* by clock_seconds */
    struct display *display;
    struct claim claim;  /* of the queue's folder, unless other runs share it, or the supply has it */
    struct on_end hooks; /* the users' programs */
    char *hook;          /* output.on_end of the job that the queue opened with, for the queue's own end, or NULL */
    double hook_wait;    /* seconds */
};

/* For a file: `start` for all its jobs; judges the folders (queue/job_folders.h), and finds the order. r->shared: then
 * jobs_select has been called. Free with roster_free, after an error too. */
struct error roster_begin(struct roster *r, struct jobs *jobs, enum start start);

/* For a spool. */
struct error roster_begin_spool(struct roster *r, struct jobs *jobs, const struct queue_supply *supply);
void roster_free(struct roster *r);

/* The next job that waits, without taking it; HANDOUT_LATER: none now; HANDOUT_OVER: none will come. */
int64_t roster_choose(struct roster *r);

/* Takes the next job for a group, and describes it in *text (queue/assignment.h). A job that the pipeline cannot serve,
 * or that has no folder to be in, fails. */
int64_t roster_take(struct roster *r, int group, char **text);

/* Looks at what is supplied, if it is time to, and keeps summary and page up to date. */
void roster_look(struct roster *r);

/* The ranks are in groups, and `first` is about to begin: makes the folder; jobs whose words or photos are wrong fail, as
 * far as that is known (subject_check; of very many jobs those that come first); writes what is known. */
struct error roster_open(struct roster *r, const struct job *first, int ranks, int groups);

/* A group has reported how far its job is; a job that no group works on has failed. */
void roster_take_report(struct roster *r, const struct job_status *status);
void roster_fail(struct roster *r, struct job *job, struct error e);

/* A spool's job has been added; or is not wanted any more (queue_judge, queue_cancel). */
void roster_judge(struct roster *r, struct job *job);
void roster_cancel(struct roster *r, struct job *job);

/* Jobs that ended before any was handed out: some were wrong, others an earlier run finished. */
void roster_show_ended(struct roster *r);

/* All ranks are about to be ended, for this reason. Jobs that were under way go on with the next run. */
void roster_abort(struct roster *r, const char *text);

/* All jobs have ended, or the queue has: the summary, for files and for people. Waits for the users' programs. */
struct error roster_finish(struct roster *r);

#endif
