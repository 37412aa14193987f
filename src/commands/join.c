#include "commands/join.h"

#include <stdio.h>

#include "base/log.h"
#include "base/memory.h"

/* Why not, or "" where nothing is in the way. gpus [ranks]: each rank's GPU, 0 for none. */
static void find_reason(char reason[128], const double *gpus, int ranks, bool possible)
{
    reason[0] = 0;
    for (int a = 0; a < ranks; a++) {
        if (gpus[a] == 0)
            snprintf(reason, 128, "rank %d has no GPU", a);
        for (int b = 0; b < a && !reason[0]; b++)
            if (gpus[a] == gpus[b])
                snprintf(reason, 128, "ranks %d and %d share a GPU", b, a);
        if (reason[0])
            return;
    }
    if (!possible)
        snprintf(reason, 128, "this zoodip was built without NCCL");
}

static struct error exchange(void *arg, void *data, int64_t bytes)
{
    return comm_broadcast(arg, data, bytes, 0);
}

static struct error join(struct comm *comm, struct device *device, double limit)
{
    const struct device_link link = {comm_rank(comm), comm_size(comm), limit, exchange, comm};
    int64_t before, after;
    TRY(device_memory_left(device, &before));
    TRY(device_join(device, &link));
    TRY(device_memory_left(device, &after));
    if (link.rank == 0)
        log_line("each rank has a GPU: losses go by NCCL %s, which takes %.0f MB of each", device_nccl(),
                 (double)(before - after) / 1e6);
    return ok();
}

struct error join_ranks(struct comm *comm, struct device *device, double limit)
{
    int ranks = comm_size(comm), gpu_ranks = 0;
    if (ranks == 1)
        return ok();
    double *gpus = memory_take(ranks, sizeof *gpus);
    struct error e = comm_agree(comm, gpus ? ok() : error_memory("the ranks' GPUs"));
    char reason[128] = "";
    if (e.code == ERROR_NONE) {
        gpus[comm_rank(comm)] = (double)device_identity(device);
        e = comm_sum(comm, gpus, ranks);
        find_reason(reason, gpus, ranks, device_joins(device));
        for (int r = 0; r < ranks; r++)
            gpu_ranks += gpus[r] != 0;
    }
    memory_free(gpus);
    if (e.code != ERROR_NONE || gpu_ranks == 0)
        return e;
    if (!reason[0])
        return comm_abort(comm, join(comm, device, limit)); // the others may be waiting in NCCL
    if (comm_rank(comm) == 0)
        log_line("%s: losses go by MPI", reason);
    return ok();
}
