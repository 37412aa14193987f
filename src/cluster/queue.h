/* cluster/queue.h
 *
 * Jobs, handed out to groups of ranks. Rank 0 of all keeps the list. The first rank of a group, its leader, tells how
 * its job goes and asks for the next one. Rank 0 leads group 0 and works too, so it answers between two steps of its
 * own: whoever works on rank 0 or on a leader calls queue_tell or queue_serve often.
 *
 * A stop that any rank was asked for (cluster/signals.h) reaches all: a group tells by JOB_STOPPED that one of its own
 * was asked, rank 0 tells the other leaders, and theirs stop after their step.
 *
 * Invariant: every job of the list is given out at most once, and none after a stop.
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

struct queue {
    struct comm *all, *group;
    int number, groups;   /* this rank's group; how many there are */
    const int64_t *order; /* [count] the list, borrowed; used on rank 0, as all below */
    int64_t count, next;
    void (*hear)(void *arg, const struct job_note *note);
    void *arg;
    bool *gone; /* [groups] told that there is nothing left */
    bool stopped;
    double told;        /* a leader: when it last told something */
    bool reported;      /* this rank said that it was asked to stop */
    struct error error; /* the first thing that went wrong in a message */
};

/* The group of a rank where `size` ranks make `groups`: neighbours stay together. */
int queue_group(int rank, int size, int groups);

/* hear(arg, note) is called on rank 0 for what all groups tell, its own too. group: this rank's, made by comm_split
 * with queue_group's number. Not collective. Free with queue_free. */
struct error queue_new(struct queue *q, struct comm *all, struct comm *group, int groups, const int64_t *order,
                       int64_t count, void (*hear)(void *arg, const struct job_note *note), void *arg);
void queue_free(struct queue *q);

/* Hands in the last job's note (job -1 at first) and gets the next job; -1 when none is left. Collective in the group;
 * the leader's note counts. */
struct error queue_next(struct queue *q, const struct job_note *last, int64_t *job);

/* While at work: tells, now and then, how it goes; and serves. Silent on ranks that do not lead. */
void queue_tell(struct queue *q, const struct job_note *note);

/* Rank 0 answers who asks; the others look whether they are to stop. Never waits. */
void queue_serve(struct queue *q);

/* When queue_next gave -1: waits for all the other groups. Collective among all. */
struct error queue_end(struct queue *q);

#endif
