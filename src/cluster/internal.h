/* cluster/internal.h
 *
 * A communicator is a table of functions; comm.c fills in what needs no library.
 */
#ifndef ZOODIP_CLUSTER_INTERNAL_H
#define ZOODIP_CLUSTER_INTERNAL_H

#include "cluster/comm.h"

struct comm_ops {
    void (*close)(struct comm *c);
    struct error (*sum)(struct comm *c, double *values, int64_t count);
    struct error (*broadcast)(struct comm *c, void *data, int64_t bytes, int root);
    struct error (*barrier)(struct comm *c);
    struct error (*lowest)(struct comm *c, int *rank); /* the lowest of all ranks' numbers */
    struct error (*node_barrier)(struct comm *c);
    struct error (*node_broadcast)(struct comm *c, void *data, int64_t bytes); /* from local rank 0 */
};

struct comm {
    const struct comm_ops *ops;
    void *own;
    int rank, size, local_rank, ranks_here;
    int shared_count; /* shared files made so far: part of the next one's name */
};

#ifdef ZOODIP_MPI
/* Was this process started by a launcher? */
bool comm_mpi_launched(void);
struct error comm_mpi_open(struct comm *c, int *argc, char ***argv);
const char *comm_mpi_library(void);
#endif

#endif
