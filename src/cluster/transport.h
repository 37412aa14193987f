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

/* This rank among all, and among those of its node. */
struct comm_place {
    int rank, size, local_rank, local_size;
};

/* What callers set of a communicator; read by the transport at every wait. */
struct comm_settings {
    double timeout; /* seconds to wait for the others */
    int64_t step;   /* steps done, to say where a rank was when it gave up */
    struct comm_listener listener;
};

/* The verbs of comm.h; `local` ones are for the ranks of a node. Counts fit an int: comm.c splits larger ones. */
struct transport {
    void (*close)(void *state);
    struct error (*sum)(void *state, double *values, int count);
    struct error (*broadcast)(void *state, void *data, int bytes, int root);
    struct error (*broadcast_local)(void *state, void *data, int bytes);
    struct error (*barrier)(void *state);
    struct error (*barrier_local)(void *state);
    void (*abort)(void *state, int code);
    bool (*poll_roll_call)(void *state);
    struct error (*roll_call)(void *state);
    struct error (*split)(void *state, int group, const struct comm_settings *, void **part, struct comm_place *place);
    struct error (*send)(void *state, const void *data, int bytes, int to);
    struct error (*poll)(void *state, int *from);
    struct error (*receive)(void *state, void *data, int bytes, int from);
    struct error (*wait_all)(void *state, int times);
};

/* Before all ranks are ended: tells the listener. What it does may need a disk that hangs, so after some seconds a signal
 * ends this process, and with it all. */
void comm_tell_abort(const struct comm_listener *listener, const char *text);

#ifdef ZOODIP_MPI
/* `settings` must outlive the transport. */
struct error mpi_open(const struct transport **transport, void **state, struct comm_place *place,
                      const struct comm_settings *settings, int *argc, char ***argv);
const char *mpi_library(void);
#endif

#endif
