/* cluster/comm.h
 *
 * The ranks of a run, behind one small interface: MPI where the program was started by a launcher and built with it, else a
 * rank alone. (NCCL between GPUs is a third table to come.)
 *
 * Ranks fail together: where one may fail and the others not, comm_agree hands all of them the same error. Every function
 * is collective, called by all ranks in the same order; comm_rank and its kin are plain look-ups.
 */
#ifndef ZOODIP_CLUSTER_COMM_H
#define ZOODIP_CLUSTER_COMM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct comm;

/* Starts MPI when a launcher (mpirun, srun) started this process; otherwise the rank is alone and MPI is left untouched. */
struct error comm_open(struct comm **comm, int *argc, char ***argv);
void comm_close(struct comm *comm);

int comm_rank(const struct comm *comm);
int comm_size(const struct comm *comm);
int comm_local_rank(const struct comm *comm); /* on this node */
int comm_ranks_here(const struct comm *comm); /* on this node */
const char *comm_library(void);               /* "Open MPI 4.1.4" or "not built in" */

/* values [count] += those of all other ranks. Exact when for each place only one rank has a number other than zero. */
struct error comm_sum(struct comm *comm, double *values, int64_t count);

/* data [bytes] of rank `root` to all. */
struct error comm_broadcast(struct comm *comm, void *data, int64_t bytes, int root);

struct error comm_barrier(struct comm *comm);

/* Every rank hands in its own error; all get that of the lowest rank that has one, or none. Also a barrier. */
struct error comm_agree(struct comm *comm, struct error mine);

/* Memory [bytes], 64-byte aligned, shared by the ranks of this node; *leader on the one rank that is to fill it. */
struct error comm_shared(struct comm *comm, int64_t bytes, void **memory, bool *leader);
void comm_shared_free(struct comm *comm, void *memory, int64_t bytes);

#endif
