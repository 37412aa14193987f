/* cluster/transport.h
 *
 * What a transport provides; comm.c makes the verbs of cluster/comm.h out of it. A new one is one more table.
 */
#ifndef ZOODIP_CLUSTER_TRANSPORT_H
#define ZOODIP_CLUSTER_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cluster/comm.h"

struct place {
    int rank, size, local_rank, local_size;
};

/* How long to wait for the others; set by comm.c, read by the transport at every wait. */
struct patience {
    double seconds;
    int64_t step; /* steps done, to say where a rank was when it gave up */
    struct listener listener;
};

/* Collective among all ranks, or among those `here` on the node. Counts fit an int: comm.c splits larger ones. */
struct transport {
    void (*close)(void *state);
    struct error (*sum)(void *state, double *values, int count);
    struct error (*broadcast)(void *state, void *data, int bytes, int root);
    struct error (*broadcast_local)(void *state, void *data, int bytes);
    struct error (*barrier)(void *state);
    struct error (*barrier_local)(void *state);
    void (*abort)(void *state, int code);
    bool (*called)(void *state);       /* has a rank asked for a sign of life? */
    struct error (*roll)(void *state); /* see comm_roll_call */
    struct error (*split)(void *state, int group, const struct patience *, void **part, struct place *place);
    struct error (*send)(void *state, const void *data, int bytes, int to);
    struct error (*poll)(void *state, int *from); /* *from: a rank whose message waits, or -1 */
    struct error (*receive)(void *state, void *data, int bytes, int from);
    struct error (*gather)(void *state, int times); /* see comm_wait_all */
};

#ifdef ZOODIP_MPI
/* `patience` must outlive the transport. */
struct error mpi_open(const struct transport **transport, void **state, struct place *place,
                      const struct patience *patience, int *argc, char ***argv);
const char *mpi_library(void);
#endif

#endif
