/* queue/handout.h
 *
 * Jobs, handed out to groups of ranks. Rank 0 of all keeps the list, which may grow. The first rank of a group, its
 * leader, reports how its job is going and asks for the next one, which it gets as a text for its group. Rank 0 leads
 * group 0 and works too, so it answers between its own steps: code that works on rank 0 or on a leader calls
 * handout_report or handout_poll often.
 *
 * A request to stop, to any rank (cluster/signals.h), reaches all: a group reports JOB_STOPPED, rank 0 tells the other
 * leaders, and their groups stop after their step.
 *
 * Rank 0 and the leaders watch each other, since no rank waits for a group that hangs as a whole: a leader reports even
 * when it has nothing to do, and rank 0 answers. A rank that receives nothing for `timeout` seconds and a little more
 * (so that a rank waiting inside the group reports it first) names the silent one and ends all ranks. A gap between two
 * polls of a rank counts for at most half the timeout, since the whole run may have been suspended.
 *
 * Invariants: no job is handed out after a stop. Between a leader and rank 0 at most three messages are under way, and the
 * pieces of one text.
 */
#ifndef ZOODIP_QUEUE_HANDOUT_H
#define ZOODIP_QUEUE_HANDOUT_H

#include <stdint.h>

#include "base/error.h"
#include "cluster/comm.h"
#include "queue/jobs.h"

struct handout;

enum { HANDOUT_OVER = -1, HANDOUT_LATER = -2 };

struct handout_parts {
    struct comm *all, *group; /* group: this rank's, made by comm_split with handout_group_of's number */
    int groups;
    double timeout; /* of both communicators */

    /* On rank 0. next: the next job for a group, and its text (memory_free); HANDOUT_LATER if none waits now, or
     * HANDOUT_OVER if none will come. */
    int64_t (*next)(void *arg, int group, char **text);
    void (*report)(void *arg, const struct job_status *status); /* on rank 0: a group's, its own included */
    void *arg;
};

/* The group of a rank when `size` ranks form `groups` groups: neighbours stay together. */
int handout_group_of(int rank, int size, int groups);

/* What the parts point to is borrowed. Not collective. Free with handout_free, which allows NULL. */
struct error handout_new(struct handout **h, const struct handout_parts *parts);
void handout_free(struct handout *h);

/* Reports the last job's status (job -1 at first) and gets the next job and its text, on all ranks of the group (free it
 * with memory_free); or, without a text, HANDOUT_OVER, or HANDOUT_LATER: call it again, without anything to report.
 * Collective in the group; the leader's status counts. */
struct error handout_next(struct handout *h, const struct job_status *last, int64_t *job, char **text);

/* On rank 0: asks the group to stop its job, if that is still this one (signals_request_cancel on its leader). */
void handout_cancel(struct handout *h, int group, int64_t job);

/* While working: reports progress now and then, and polls. Only polls on ranks that do not lead. */
void handout_report(struct handout *h, const struct job_status *status);

/* Rank 0 answers requests; leaders check whether they are to stop, and ranks without work pass on a request to stop.
 * Never waits. Listeners of both communicators (comm_listen) call this or handout_report. */
void handout_poll(struct handout *h);

/* After handout_next returned HANDOUT_OVER: waits for all the other groups. Collective among all. */
struct error handout_end(struct handout *h);

#endif
