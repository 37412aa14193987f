/* cluster/comm.h
 *
 * How ranks communicate: a handful of verbs over a table of functions (cluster/transport.h). MPI is one transport; a
 * process that no launcher started, or a build without MPI, is alone, and every verb still works.
 *
 * Invariant: every rank calls the collective verbs in the same order, and after each of them all ranks hold the same
 * bytes. Where one rank may fail and another not, call comm_agree before the next collective, so that all fail
 * together; a training step reports failures in slots beside its losses. comm_abort is for a rank that cannot wait for
 * the others.
 *
 * No collective verb waits forever (except comm_wait_all, if asked to): a rank that has waited longer than its timeout
 * calls the roll, names the ranks that give no sign of life, and ends all with ERROR_FAILED. Time during which the rank
 * itself was stopped does not count, so a run that is suspended as a whole continues afterwards.
 *
 * Only one thread communicates (MPI_THREAD_FUNNELED). Errors are ERROR_FAILED and name the call.
 */
#ifndef ZOODIP_CLUSTER_COMM_H
#define ZOODIP_CLUSTER_COMM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct comm;

/* Joins the other ranks if mpirun or srun started this process, else is alone. Refuses to be one of several processes
 * that cannot communicate (a launcher whose MPI is not ours). From here on only rank 0 shows progress. argc, argv as main
 * got them. */
struct error comm_open(struct comm **comm, int *argc, char ***argv);

/* This process's rank according to its launcher's environment variables, 0 without a launcher: for output before
 * comm_open that should appear once. */
int comm_rank_launched(void);

/* Collective. NULL is allowed. */
void comm_close(struct comm *comm);

int comm_rank(const struct comm *comm);
int comm_size(const struct comm *comm);
int comm_local_rank(const struct comm *comm); /* this rank among those on its node */
int comm_local_size(const struct comm *comm); /* how many share its node */

/* Sets how many seconds this rank waits for the others (600 by default), and how many steps it has done, for the
 * message when they do not arrive. Not collective. */
void comm_set_timeout(struct comm *comm, double seconds);
void comm_set_step(struct comm *comm, int64_t step);

/* Callbacks; functions may be NULL. */
struct comm_listener {
    void (*tick)(void *arg); /* now and then while this rank works or waits for the others of `comm` */
    void (*abort)(void *arg, const char *text); /* before all ranks are ended; the log has the line already */
    void *arg;
};

/* Not collective. Long work calls comm_tick between its pieces, which calls the listener's tick. */
void comm_listen(struct comm *comm, struct comm_listener listener);
void comm_tick(const struct comm *comm);

/* values [count], in place: the sum over ranks. Slots that all but one rank leave at zero are exact, whatever the order
 * of addition. */
struct error comm_sum(struct comm *comm, double *values, int64_t count);

/* Sends data [bytes] from rank `root` to all. */
struct error comm_broadcast(struct comm *comm, void *data, int64_t bytes, int root);

/* Sends rank 0's text, *size bytes and a zero byte, to all; on the other ranks *text is allocated. Free it with
 * memory_free, after an error too. */
struct error comm_share_text(struct comm *comm, char **text, int64_t *size);

/* No rank leaves before all have arrived. */
struct error comm_barrier(struct comm *comm);

/* The same among the ranks of this node; data [bytes] comes from the first of them. */
struct error comm_broadcast_local(struct comm *comm, void *data, int bytes);
struct error comm_barrier_local(struct comm *comm);

/* Every rank passes its own outcome; all get the error of the lowest rank that failed, or ok. */
struct error comm_agree(struct comm *comm, struct error e);

/* comm_agree for ranks that work side by side, after each piece of work: it also collects requests to stop. *stop: in,
 * whether this rank was asked to; out, whether any was. */
struct error comm_meet(struct comm *comm, struct error mine, bool *stop);

/* For a failure that the others cannot learn of while they wait: prints it and ends all ranks with the error's code. If
 * this rank is alone, or `e` is no error, it returns `e` and the caller proceeds as usual. Not collective. */
struct error comm_abort(struct comm *comm, struct error e);

/* For a rank that waits for the others in its GPU. comm_poll_roll_call: has another rank waited too long and called the
 * roll? If so, or after its own timeout, the rank calls comm_roll_call, which asks all ranks for a sign of life: the
 * error names those that give none, or says that all were merely late. It returns first on the lowest rank that is
 * alive, which ends all ranks with it. Not collective. */
bool comm_poll_roll_call(struct comm *comm);
struct error comm_roll_call(struct comm *comm);

/* ---- groups of ranks that work on something of their own ---- */

/* Collective: ranks that pass the same `group` get a communicator of their own, in the order of their ranks. Close it
 * before this one. */
struct error comm_split(struct comm *comm, int group, struct comm **part);

/* Messages between two ranks, which both know the length, about two kilobytes at most. comm_send does not wait; comm_poll
 * says from which rank a message has arrived (-1: from none), and comm_receive then does not wait either. Messages from
 * one rank arrive in order. */
struct error comm_send(struct comm *comm, const void *data, int64_t bytes, int to);
struct error comm_poll(struct comm *comm, int *from);
struct error comm_receive(struct comm *comm, void *data, int64_t bytes, int from);

/* A barrier for ranks that may arrive far apart: waiting ranks sleep. This rank waits `times` times the timeout; 0: as
 * long as it takes. Collective. */
struct error comm_wait_all(struct comm *comm, int times);

/* Which MPI this was built with, as --version shows it. */
const char *comm_library(void);

#endif
