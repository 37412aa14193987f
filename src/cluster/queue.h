/* cluster/queue.h
 *
 * Jobs, handed out to groups of ranks. Rank 0 of all keeps the list. The first rank of a group, its leader, tells how
 * its job goes and asks for the next one. Rank 0 leads group 0 and works too, so it answers between two steps of its
 * own: whoever works on rank 0 or on a leader calls queue_tell or queue_serve often.
 *
 * A stop that any rank was asked for (cluster/signals.h) reaches all: a group tells by JOB_STOPPED that one of its own
 * was asked, rank 0 tells the other leaders, and theirs stop after their step.
 *
 * Rank 0 and the leaders watch each other, for a group that hangs as a whole makes no other wait: a leader tells how it
 * goes also while it has nothing to do, and rank 0 answers. Whoever hears nothing for `limit` seconds and a little more
 * (a rank that waits inside its group is to speak first) names the silent one and ends all ranks. Half the limit is the
 * most that counts of a time in which a rank did not look: it may have been suspended together with all others.
 *
 * Invariants: every job of the list is given out at most once, and none after a stop. Between a leader and rank 0 at
 * most three messages are under way.
 */
#ifndef ZOODIP_CLUSTER_QUEUE_H
#define ZOODIP_CLUSTER_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cluster/comm.h"

enum job_state { JOB_WAITING, JOB_RUNNING, JOB_STOPPED, JOB_DONE, JOB_FAILED };

/* What a leader tells of a job. */
struct job_note {
    int64_t job; /* -1: of none */
    int64_t state, group, step;
    double loss, validation_first, validation, evaluations, seconds, evaluations_per_second;
    double finished;    /* when, in seconds since 1970; 0: not yet */
    struct error error; /* of a job that failed */
};

/* What rank 0 knows of a group. */
struct queue_member {
    bool gone;     /* told that there is nothing left */
    bool over;     /* told that all others are gone too */
    double silent; /* seconds since its last word */
    int64_t step;  /* the last one it told of; a leader keeps its own here for rank 0 */
};

struct queue {
    struct comm *all, *group;
    double limit;         /* seconds without a word that are too many */
    int number, groups;   /* this rank's group; how many there are */
    const int64_t *order; /* [count] the list, borrowed; used on rank 0, as all below */
    int64_t count, next;
    void (*hear)(void *arg, const struct job_note *note);
    void *arg;
    struct queue_member *members; /* [groups] */
    bool stopped;

    bool over;     /* a leader: all groups are done, as all below */
    int owed;      /* answers that rank 0 has not given yet */
    double told;   /* when it last told something */
    double silent; /* seconds for which rank 0 owes an answer */

    double looked;      /* any rank: when it last looked for messages */
    bool idle;          /* in queue_end */
    bool reported;      /* that it was asked to stop */
    struct error error; /* the first thing that went wrong in a message */
};

/* The group of a rank where `size` ranks make `groups`: neighbours stay together. */
int queue_group(int rank, int size, int groups);

/* hear(arg, note) is called on rank 0 for what all groups tell, its own too. group: this rank's, made by comm_split
 * with queue_group's number. limit: as comm_patience of both. Not collective. Free with queue_free. */
struct error queue_new(struct queue *q, struct comm *all, struct comm *group, int groups, double limit,
                       const int64_t *order, int64_t count, void (*hear)(void *arg, const struct job_note *note),
                       void *arg);
void queue_free(struct queue *q);

/* Hands in the last job's note (job -1 at first) and gets the next job; -1 when none is left. Collective in the group;
 * the leader's note counts. */
struct error queue_next(struct queue *q, const struct job_note *last, int64_t *job);

/* While at work: tells, now and then, how it goes; and serves. Silent on ranks that do not lead. */
void queue_tell(struct queue *q, const struct job_note *note);

/* Rank 0 answers who asks; the leaders look whether they are to stop, and ranks without work say that they were asked
 * to. Never waits. Listeners of both communicators (comm_listen) call this or queue_tell. */
void queue_serve(struct queue *q);

/* When queue_next gave -1: waits for all the other groups. Collective among all. */
struct error queue_end(struct queue *q);

#endif
