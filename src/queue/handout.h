/* queue/handout.h
 *
 * Jobs, handed out to groups of ranks. Rank 0 of all keeps the list. The first rank of a group, its leader, reports how
 * its job is going and asks for the next one. Rank 0 leads group 0 and works too, so it answers between its own steps:
 * code that works on rank 0 or on a leader calls handout_report or handout_serve often.
 *
 * A request to stop, to any rank (cluster/signals.h), reaches all: a group reports JOB_STOPPED, rank 0 tells the other
 * leaders, and their groups stop after their step.
 *
 * Rank 0 and the leaders watch each other, since no rank waits for a group that hangs as a whole: a leader reports even
 * when it has nothing to do, and rank 0 answers. A rank that hears nothing for `limit` seconds and a little more (so
 * that a rank waiting inside the group speaks first) names the silent one and ends all ranks. A gap between two polls
 * of a rank counts for at most half the limit, since the whole job may have been suspended.
 *
 * Invariants: every job of the list is given out at most once, and none after a stop. Between a leader and rank 0 at
 * most three messages are under way.
 */
#ifndef ZOODIP_QUEUE_HANDOUT_H
#define ZOODIP_QUEUE_HANDOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cluster/comm.h"

enum job_state { JOB_WAITING, JOB_RUNNING, JOB_STOPPED, JOB_DONE, JOB_FAILED };

/* What a leader reports about a job. */
struct job_note {
    int64_t job; /* -1: none */
    int64_t state, group, step;
    double loss, validation_first, validation, evaluations, seconds, evaluations_per_second;
    double finished;    /* time, in seconds since 1970; 0: not yet */
    struct error error; /* of a job that failed */
};

/* What rank 0 knows of a group. */
struct handout_group {
    bool gone;     /* told that there is nothing left */
    bool over;     /* told that all others are gone too */
    double silent; /* seconds since its last word */
    int64_t step;  /* the last one it told of; a leader keeps its own here for rank 0 */
};

struct handout {
    struct comm *all, *group;
    double limit;         /* seconds of silence that are too many */
    int number, groups;   /* this rank's group; how many there are */
    const int64_t *order; /* [count] the list, borrowed; used on rank 0, as all below */
    int64_t count, next;
    void (*hear)(void *arg, const struct job_note *note);
    void *arg;
    struct handout_group *members; /* [groups] */
    bool stopped;

    bool over;     /* a leader: all groups are done, as all below */
    int owed;      /* answers that rank 0 has not given yet */
    double told;   /* when it last reported */
    double silent; /* seconds for which rank 0 owes an answer */

    double looked;      /* any rank: when it last looked for messages */
    bool idle;          /* in handout_end */
    bool reported;      /* has said that it was asked to stop */
    struct error error; /* the first thing that went wrong in a message */
};

/* The group of a rank when `size` ranks form `groups` groups: neighbours stay together. */
int handout_group_of(int rank, int size, int groups);

/* hear(arg, note) is called on rank 0 for every report of a group, its own included. group: this rank's, made by
 * comm_split with handout_group_of's number. limit: as comm_set_timeout of both. Not collective. Free with handout_free. */
struct error handout_new(struct handout *q, struct comm *all, struct comm *group, int groups, double limit,
                         const int64_t *order, int64_t count, void (*hear)(void *arg, const struct job_note *note),
                         void *arg);
void handout_free(struct handout *q);

/* Reports the last job's note (job -1 at first) and gets the next job; -1 when none is left. Collective in the group;
 * the leader's note counts. */
struct error handout_next(struct handout *q, const struct job_note *last, int64_t *job);

/* While working: reports progress now and then, and serves. Does nothing on ranks that do not lead. */
void handout_report(struct handout *q, const struct job_note *note);

/* Rank 0 answers requests; leaders check whether they are to stop, and ranks without work pass on a request to stop.
 * Never waits. Listeners of both communicators (comm_listen) call this or handout_report. */
void handout_serve(struct handout *q);

/* After handout_next returned -1: waits for all the other groups. Collective among all. */
struct error handout_end(struct handout *q);

#endif
