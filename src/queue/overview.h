/* queue/overview.h
 *
 * What becomes of the runs in a folder, as it is seen from outside, from what they write there: a run's own folder, that
 * of a queue or of an array of jobs, or a spool. Reads only.
 *
 *     run      status.json; of an earlier version job.json, or metrics.jsonl
 *     queue    summary.json, and of the jobs that run, or wait according to a summary that may be old, status.json
 *     array    the same; before its first task ends there is no summary, and the jobs are those that have a folder
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
    struct seen_job all;   /* the whole: state, process, times; losses and steps only of a run */
    int64_t groups;        /* -1: not known */
    struct seen_job *jobs; /* [count], in the order in which one wants to see them; a run's only one is its own */
    int64_t count, room;
    int64_t counts[SEEN_STATES];
};

/* now: seconds since 1970. ERROR_BAD_INPUT if the folder is none of these, or says so in another language than JSON. Free
 * with overview_free, after an error too. */
struct error overview_read(struct overview *o, const char *folder, double now);
void overview_free(struct overview *o);

/* Takes a job over, and frees it if there is no memory left: for overview_spool.h. */
struct error overview_add(struct overview *o, struct seen_job *job);

/* Has everything there ended? What is gone may be started again. */
bool overview_ended(const struct overview *o);

#endif
