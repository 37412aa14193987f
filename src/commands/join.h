/* commands/join.h
 *
 * By which way the losses of a step go from rank to rank: inside the GPUs' streams, by NCCL, where every rank has a GPU
 * of its own; else by MPI, between two programs. The bits are the same. Rank 0 says which, and why. Ranks of which some
 * have a GPU and some none are refused.
 */
#ifndef ZOODIP_COMMANDS_JOIN_H
#define ZOODIP_COMMANDS_JOIN_H

#include "base/error.h"
#include "cluster/comm.h"
#include "device/device.h"

/* Whether all ranks compute on the same kind of device. Collective. */
struct error join_check(struct comm *comm, const struct device *device);

/* Collective. limit: seconds that a rank waits for the others in its GPU. */
struct error join_ranks(struct comm *comm, struct device *device, double limit);

#endif
