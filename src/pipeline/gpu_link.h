/* pipeline/gpu_link.h
 *
 * How a step's losses get from rank to rank: by NCCL inside the GPUs' streams if every rank has a GPU of its own, else
 * by MPI between two programs. The bits are the same. Rank 0 logs which, and why. A mix of ranks with and without a GPU
 * is refused.
 */
#ifndef ZOODIP_PIPELINE_GPU_LINK_H
#define ZOODIP_PIPELINE_GPU_LINK_H

#include "base/error.h"
#include "cluster/comm.h"
#include "device/device.h"
#include "files/config.h"

/* Whether all ranks compute on the same kind of device, as `config` asked for one. Collective. */
struct error gpu_link_check(struct comm *comm, const struct device *device, const struct config *config);

/* Collective. config->cluster.timeout is how long a rank waits for the others in its GPU. */
struct error gpu_link_open(struct comm *comm, struct device *device, const struct config *config);

#endif
