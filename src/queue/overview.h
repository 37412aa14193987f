/* queue/overview.h
 *
 * What becomes of the runs in a folder, as it is seen from outside, from what they write there: a run's own folder, that
 * of a queue or of an array of jobs, or a spool. Reads only.
 *
 *     run      status.json; of an earlier version job.json, or metrics.jsonl
 *     queue    summary.json, and of the jobs that run, or wait according to a summary that may be old, status.json
 *     array    the same, but its summary.json is that of the task that wrote last, so the whole is what the jobs are;
 *              before its first task ends there is no summary, and the jobs are those that have a folder
 *     spool    its own folders, .zoodip-spool.json, and the results of its jobs, a queue's folder
 */
#ifndef ZOODIP_QUEUE_OVERVIEW_H
#define ZOODIP_QUEUE_OVERVIEW_H

#include <stdint.h>

#include "base/error.h"
#include "queue/seen_job.h"

enum overview_kind { OVERVIEW_RUN, OVERVIEW_QUEUE, OVERVIEW_ARRAY, OVERVIEW_SPOOL };
const char *overview_kind_name(enum overview_kind kind);

struct overview {
    enum overview_kind kind;
    struct seen_job all;   /* the whole: state, process, times; losses and steps only of a run. An array's ranks are
                            * those of all tasks that run now */
    int64_t groups;        /* -1: not known */
    int64_t tasks;         /* of an array: how many run now; else -1 */
    char *results;         /* the folder that the jobs' folders are in; of a run: its own */
    char *warning;         /* what could not be read, or NULL; safe to show */
    struct seen_job *jobs; /* [count], in the order in which one wants to see them; a run's only one is its own */
    int64_t count, room;
    int64_t counts[SEEN_STATES]; /* by seen_shown */
};

/* now: seconds since 1970. ERROR_BAD_INPUT if the folder is none of these. A summary that cannot be read is a warning, and
 * the jobs are those that have a folder. Free with overview_free, after an error too. */
struct error overview_read(struct overview *o, const char *folder, double now);
void overview_free(struct overview *o);

/* Takes a job over, and frees it if there is no memory left: for overview_spool.h. */
struct error overview_add(struct overview *o, struct seen_job *job);

/* Will nothing change there any more unless somebody starts it again? An array goes on until all of its jobs have ended:
 * what was stopped, or is gone, may be queued again. */
bool overview_ended(const struct overview *o);

#endif
