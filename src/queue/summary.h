/* queue/summary.h
 *
 * What a queue leaves about all of its jobs: summary.json and index.html, from its start on and while it works, so that
 * others can watch it. On rank 0.
 *
 * Writing takes time from rank 0's own job, so it waits the longer, the more jobs there are: less than a thousandth of the
 * time goes into it.
 */
#ifndef ZOODIP_QUEUE_SUMMARY_H
#define ZOODIP_QUEUE_SUMMARY_H

#include "base/error.h"
#include "queue/jobs.h"

/* When a file that tells how things are was last written, and when it is due again. */
struct due {
    double last, next; /* by clock_seconds; 0: never */
    double took;       /* seconds, the last time */
    bool news;         /* a job has ended since */
    bool failed;       /* the last time, which has been said */
};

struct results {
    struct jobs *jobs;  /* borrowed; the status of external jobs is kept up to date */
    double submitted;   /* when the queue was first started, in seconds since 1970 */
    double began;       /* this run, by clock_seconds */
    int ranks, groups;  /* 0 until known */
    double left;        /* seconds until all jobs have ended, as of the last summary; NAN if not known */
    bool ended;         /* nothing is under way any more */
    const char *reason; /* what ended it before its jobs, borrowed; NULL: nothing did */

    /* private */
    struct due summary, page;
};

/* continued: whether `submitted` is that of an earlier summary.json, if there is one, instead of now. */
void results_begin(struct results *r, struct jobs *jobs, bool continued);

/* A spool's next run: those jobs that an earlier one's summary.json shows as ended go on being shown. */
struct error results_recall(struct results *r);

/* Seconds from a job's submission to its end; NAN while it is pending. */
double results_turnaround(const struct results *r, const struct job *job);

/* "running", "done", "failed" if some job has or all ranks were ended, or "stopped", as a spool is at its end. */
const char *results_state(const struct results *r);

/* Whether other runs learn jobs of the same file. */
bool results_others(const struct results *r);

/* How many jobs are in each state -> counts [JOB_STATES]. */
void results_count(const struct results *r, int64_t *counts);

/* A job has ended: what is about all of them is due sooner. */
void results_note(struct results *r);

/* summary.json and index.html if they are due, as they are at the start. Says once if they cannot be written. */
void results_refresh(struct results *r);
bool results_due(const struct results *r);

/* Both, now: at the end. */
struct error results_write(struct results *r);

#endif
