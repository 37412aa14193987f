#include "pipeline/gpu_link.h"

#include <stdio.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"

/* gpus [ranks]: each rank's GPU, 0 for none. All ranks must have one or none may, because weights are packed for one
 * kind of device and shared by a node's ranks, and a lane's bits depend on its device. */
static struct error check_same_kind(const double *gpus, int ranks, const struct config *config)
{
    for (int r = 1; r < ranks; r++)
        if ((gpus[r] != 0) != (gpus[0] != 0))
            return config_blame(
                config, "device",
                error_input("rank %d computes on a GPU and rank %d does not; expected the same for all: "
                            "check CUDA_VISIBLE_DEVICES, or set device to cpu",
                            gpus[0] != 0 ? 0 : r, gpus[0] != 0 ? r : 0));
    return ok();
}

/* Why ranks with GPUs cannot be joined, or "". */
static void find_reason(char reason[128], const double *gpus, int ranks, bool possible)
{
    snprintf(reason, 128, "%s", possible ? "" : "this zoodip was built without NCCL");
    for (int a = 1; a < ranks; a++)
        for (int b = 0; b < a; b++)
            if (gpus[a] == gpus[b]) {
                snprintf(reason, 128, "ranks %d and %d share a GPU", b, a);
                return;
            }
}

static struct error broadcast(void *arg, void *data, int64_t bytes)
{
    return comm_broadcast(arg, data, bytes, 0);
}

static bool gave_up(void *arg)
{
    return comm_poll_roll_call(arg);
}

static struct error missing(void *arg)
{
    return comm_roll_call(arg);
}

static struct error join(struct comm *comm, struct device *device, double limit)
{
    const struct device_link link = {comm_rank(comm), comm_size(comm), limit, broadcast, gave_up, missing, comm};
    int64_t before, after, used;
    TRY(device_memory_left(device, &before, &used));
    struct progress progress;
    progress_phase(&progress, "joining the ranks' GPUs", 0, "");
    struct error e = device_join(device, &link);
    progress_end(&progress);
    TRY(e);
    TRY(device_memory_left(device, &after, &used));
    if (link.rank == 0)
        log_line("each rank has a GPU: %s carries the losses, using %.0f MB of each", device_joined_by(device),
                 (double)(before - after) / 1e6);
    return ok();
}

/* Each rank's GPU -> *gpus [ranks], allocated; the ranks are known to agree in kind. */
static struct error list_gpus(struct comm *comm, const struct device *device, const struct config *config,
                              double **gpus)
{
    int ranks = comm_size(comm);
    *gpus = memory_alloc(ranks, sizeof **gpus);
    TRY(comm_agree(comm, *gpus ? ok() : error_memory("the ranks' GPUs")));
    (*gpus)[comm_rank(comm)] = (double)device_identity(device);
    TRY(comm_sum(comm, *gpus, ranks));
    return check_same_kind(*gpus, ranks, config);
}

struct error gpu_link_check(struct comm *comm, const struct device *device, const struct config *config)
{
    double *gpus;
    struct error e = list_gpus(comm, device, config, &gpus);
    memory_free(gpus);
    return e;
}

struct error gpu_link_open(struct comm *comm, struct device *device, const struct config *config)
{
    int ranks = comm_size(comm);
    double limit = config->cluster.timeout;
    comm_set_timeout(comm, limit);
    if (ranks == 1)
        return ok();
    double *gpus;
    char reason[128] = "";
    struct error e = list_gpus(comm, device, config, &gpus);
    if (e.code == ERROR_NONE)
        find_reason(reason, gpus, ranks, device_can_join(device));
    memory_free(gpus);
    if (e.code != ERROR_NONE || device_identity(device) == 0)
        return e;
    if (!reason[0])
        return comm_abort(comm, join(comm, device, limit)); // the other ranks may be waiting in NCCL
    if (comm_rank(comm) == 0)
        log_line("%s: MPI carries the losses", reason);
    return ok();
}
