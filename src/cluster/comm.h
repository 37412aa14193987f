/* cluster/comm.h
 *
 * How ranks speak to one another: a handful of verbs with a table of functions behind them (cluster/transport.h). MPI
 * is one transport; a process that no launcher started, or a build without MPI, is alone, and every verb still works.
 *
 * Invariant: every rank calls the collective verbs in the same order, and after each of them all ranks hold the same
 * bytes. Where one rank may fail and another not, comm_agree comes before the next collective, so that all fail
 * together; a step tells of failures in slots beside its losses. comm_abort is for a rank that cannot wait for the
 * others.
 *
 * No collective verb waits for ever (but comm_gather, where that is asked for): a rank that has waited longer than
 * comm_patience allows asks the others for a sign of life, names those that give none, and ends all ranks with
 * ERROR_FAILED. Time in which it was stopped itself does not count, so a job that is suspended as a whole goes on
 * afterwards.
 *
 * One thread speaks (MPI_THREAD_FUNNELED). Errors are ERROR_FAILED and name the call.
 */
#ifndef ZOODIP_CLUSTER_COMM_H
#define ZOODIP_CLUSTER_COMM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct comm;

/* Joins the other ranks where mpirun or srun started this process, else is alone. Refuses to be one of several
 * processes that cannot hear each other (a launcher whose MPI is not ours). argc, argv as main got them. */
struct error comm_open(struct comm **comm, int *argc, char ***argv);

/* This process's rank by what its launcher left in the environment, 0 without one: for what is said once and needs no
 * other rank, before comm_open. */
int comm_rank_launched(void);

/* Collective. NULL is allowed. */
void comm_close(struct comm *comm);

int comm_rank(const struct comm *comm);
int comm_size(const struct comm *comm);
int comm_rank_here(const struct comm *comm);  /* this rank among those on its node */
int comm_ranks_here(const struct comm *comm); /* how many share its node */

/* How many seconds this rank waits for the others (600 until told), and how many steps it has done, for what it says
 * when they do not come. Not collective. */
void comm_patience(struct comm *comm, double seconds);
void comm_at(struct comm *comm, int64_t step);

/* Who wants to know of this rank's waiting and working; functions may be NULL. */
struct listener {
    void (*meanwhile)(void *arg); /* now and then, while the rank waits for the others of `comm` or works */
    void (*alarm)(void *arg, const char *text); /* last words before all ranks are ended, besides the log's line */
    void *arg;
};

/* Not collective, as all of these. Long work calls comm_tick between two pieces. */
void comm_listen(struct comm *comm, struct listener listener);
void comm_tick(const struct comm *comm);

/* values [count], in place: the sum over ranks. Slots that all but one rank leave at zero come out exact, in whatever
 * order they are added. */
struct error comm_sum(struct comm *comm, double *values, int64_t count);

/* data [bytes] of rank `root` to all. */
struct error comm_broadcast(struct comm *comm, void *data, int64_t bytes, int root);

/* Rank 0's text, *size bytes and a zero byte, to all; the others' *text is made new. Free it with memory_free, after an
 * error too. */
struct error comm_share_text(struct comm *comm, char **text, int64_t *size);

/* Nobody leaves before all have come. */
struct error comm_barrier(struct comm *comm);

/* Every rank hands in how it fared; all get the error of the lowest rank that failed, or ok. */
struct error comm_agree(struct comm *comm, struct error e);

/* For a failure that the others cannot know of while they wait: says it and ends all ranks with the error's code.
 * Alone, or where there is no error, it returns `e`, and the caller goes the usual way. Not collective. */
struct error comm_abort(struct comm *comm, struct error e);

/* For a rank that waits for the others elsewhere, in its GPU. comm_called: has one of them lost its patience and asks
 * for a sign of life? Then, or when its own patience ends, it calls comm_roll, which asks all for one: the error names
 * those that give none, or says that all were only late. The lowest rank that is alive gets it first, to end all with
 * it. Not collective. */
bool comm_called(struct comm *comm);
struct error comm_roll(struct comm *comm);

/* Memory that all ranks of this node see, zeroed, at the start of a page. *fill: this rank is the one that writes it;
 * the others may read after the next comm_agree or comm_barrier. Where the node cannot share, each rank gets its own
 * and fills it. Collective. Give it back with comm_shared_free. */
struct error comm_shared(struct comm *comm, int64_t bytes, void **memory, bool *fill);
void comm_shared_free(struct comm *comm, void *memory, int64_t bytes);

/* ---- groups of ranks that work on something of their own ---- */

/* Collective: the ranks that name the same `group` get a communicator of their own, in the order of their ranks. Close
 * it before this one. */
struct error comm_split(struct comm *comm, int group, struct comm **part);

/* Messages between two ranks; both know the length, which is short (a kilobyte). comm_send does not wait; comm_poll
 * says whose message has come (-1: nobody's), and then comm_receive does not wait either. Messages from one rank come
 * in their order. */
struct error comm_send(struct comm *comm, const void *data, int64_t bytes, int to);
struct error comm_poll(struct comm *comm, int *from);
struct error comm_receive(struct comm *comm, void *data, int64_t bytes, int from);

/* A barrier for ranks that may come far apart: who waits sleeps. This rank waits `times` as long as comm_patience says;
 * 0: as long as it takes. Collective. */
struct error comm_gather(struct comm *comm, int times);

/* Which MPI this was built with, as --version shows it. */
const char *comm_library(void);

#endif
