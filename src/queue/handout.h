/* queue/handout.h
 *
 * Jobs, handed out to groups of ranks. Rank 0 of all keeps the list. The first rank of a group, its leader, reports how
 * its job is going and asks for the next one. Rank 0 leads group 0 and works too, so it answers between its own steps:
 * code that works on rank 0 or on a leader calls handout_report or handout_poll often.
 *
 * A request to stop, to any rank (cluster/signals.h), reaches all: a group reports JOB_STOPPED, rank 0 tells the other
 * leaders, and their groups stop after their step.
 *
 * Rank 0 and the leaders watch each other, since no rank waits for a group that hangs as a whole: a leader reports even
 * when it has nothing to do, and rank 0 answers. A rank that receives nothing for `timeout` seconds and a little more
 * (so that a rank waiting inside the group reports it first) names the silent one and ends all ranks. A gap between two
 * polls of a rank counts for at most half the timeout, since the whole run may have been suspended.
 *
 * Invariants: every job of the list is handed out at most once, and none after a stop. Between a leader and rank 0 at
 * most three messages are under way.
 */
#ifndef ZOODIP_QUEUE_HANDOUT_H
#define ZOODIP_QUEUE_HANDOUT_H

#include <stdint.h>

#include "base/error.h"
#include "cluster/comm.h"
#include "queue/jobs.h"

struct handout;

struct handout_parts {
    struct comm *all, *group; /* group: this rank's, made by comm_split with handout_group_of's number */
    int groups;
    double timeout;       /* of both communicators */
    const int64_t *order; /* [count] the jobs to hand out; used on rank 0 */
    int64_t count;
    void (*report)(void *arg, const struct job_status *status); /* on rank 0: a group's, its own included */
    void *arg;
};

/* The group of a rank when `size` ranks form `groups` groups: neighbours stay together. */
int handout_group_of(int rank, int size, int groups);

/* What the parts point to is borrowed. Not collective. Free with handout_free, which allows NULL. */
struct error handout_new(struct handout **h, const struct handout_parts *parts);
void handout_free(struct handout *h);

/* Reports the last job's status (job -1 at first) and gets the next job; -1 when none is left. Collective in the group;
 * the leader's status counts. */
struct error handout_next(struct handout *h, const struct job_status *last, int64_t *job);

/* While working: reports progress now and then, and polls. Only polls on ranks that do not lead. */
void handout_report(struct handout *h, const struct job_status *status);

/* Rank 0 answers requests; leaders check whether they are to stop, and ranks without work pass on a request to stop.
 * Never waits. Listeners of both communicators (comm_listen) call this or handout_report. */
void handout_poll(struct handout *h);

/* After handout_next returned -1: waits for all the other groups. Collective among all. */
struct error handout_end(struct handout *h);

#endif
