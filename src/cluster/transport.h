/* cluster/transport.h
 *
 * What a transport provides; comm.c makes the verbs of cluster/comm.h out of it. A new one is one more table.
 */
#ifndef ZOODIP_CLUSTER_TRANSPORT_H
#define ZOODIP_CLUSTER_TRANSPORT_H

#include <stdint.h>

#include "base/error.h"

/* Collective among all ranks, or among those `here` on the node. Counts are small enough for an int: comm.c cuts. */
struct transport {
    void (*close)(void *state);
    struct error (*sum)(void *state, double *values, int count);
    struct error (*broadcast)(void *state, void *data, int bytes, int root);
    struct error (*broadcast_here)(void *state, void *data, int bytes);
    struct error (*barrier)(void *state);
    struct error (*barrier_here)(void *state);
    void (*abort)(void *state, int code);
};

struct place {
    int rank, size, rank_here, ranks_here;
};

/* How long to wait for the others; kept by comm.c, read by the transport at every wait. */
struct patience {
    double seconds;
    int64_t step; /* steps done, to say where a rank was when it gave up */
};

#ifdef ZOODIP_MPI
/* `patience` must outlive the transport. */
struct error mpi_open(const struct transport **transport, void **state, struct place *place,
                      const struct patience *patience, int *argc, char ***argv);
const char *mpi_library(void);
#endif

#endif
