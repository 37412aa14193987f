/* kernels/nccl.cu
 *
 * Ranks with a GPU each, joined by NCCL.
 *
 * Idea. A collective is work on the stream like a kernel. But a rank that dies leaves the others waiting inside their
 * GPUs, beyond the reach of signals and time limits. So nothing here blocks ("in order to abort NCCL communicators
 * safely, NCCL requires applications to set communicators as nonblocking", its guide, "Fault Tolerance"): the
 * communicator is polled until a call is done, and after a collective the host polls an event, NCCL for errors, and the
 * other ranks for whether one gave up, until the limit (nccl_wait). Then ncclCommAbort ends what is running, and the
 * link is cut for good.
 *
 * Invariants: a call that returns ncclInProgress is polled to its end at once, for "before the states change into
 * ncclSuccess, users are not allowed to issue CUDA kernel to the streams being used by NCCL" (ncclCommGetAsyncError).
 * While cuda.pending is set, the host makes no call that itself waits for the stream. No collective is captured
 * (program.cu).
 *
 * The sums are of a few losses, and exact in any order since all ranks but one hold zeros. One channel is enough, and
 * keeps NCCL's buffers small. A first collective right away creates buffers and connections, before the first step.
 */
#include "kernels/cuda.h"
extern "C" {
#include "base/clock.h"
#include "base/memory.h"
}

#ifdef ZOODIP_NCCL

#include <nccl.h>
#include <stdio.h>
#include <string.h>

struct link {
    ncclComm_t comm; /* NULL: cut */
    cudaEvent_t reached;
    struct device_link others;
};

/* -------------------------------------------------------------------------------- errors, waiting */

static struct error nccl_error(const struct link *l, ncclResult_t result, const char *call)
{
    if (result == ncclSuccess)
        return ok();
    const char *about = ncclGetLastError(l->comm);
    return error_failed("%s: NCCL: %s%s%.200s; set NCCL_DEBUG=INFO for details", call, ncclGetErrorString(result),
                        about && *about ? ": " : "", about ? about : "");
}

static struct error timed_out(const struct link *l, const char *what)
{
    return error_failed("%s: some ranks did not arrive within %g s (cluster.timeout): hung, dead or too slow", what,
                        l->others.limit);
}

static void pause_briefly()
{
    clock_sleep(20e-6);
}

static void abort_link(struct link *l)
{
    if (l->comm)
        ncclCommAbort(l->comm);
    l->comm = NULL;
}

/* The final result of a call of the communicator. */
static struct error wait_for_call(const struct link *l, ncclResult_t result, const char *call)
{
    double began = clock_seconds();
    while (result == ncclInProgress) {
        if (clock_seconds() - began > l->others.limit)
            return timed_out(l, call);
        pause_briefly();
        ncclResult_t asked = ncclCommGetAsyncError(l->comm, &result);
        if (asked != ncclSuccess)
            result = asked;
    }
    return nccl_error(l, result, call);
}

/* Can the others, as far as known, still arrive? *asked_at: when they were last asked whether one gave up. */
static struct error check_others(const struct link *l, double began, double *asked_at)
{
    const double often = 0.1; // seconds
    const struct device_link *others = &l->others;
    ncclResult_t state = ncclSuccess, asked = ncclCommGetAsyncError(l->comm, &state);
    if (state == ncclRemoteError)
        clock_sleep(3); // the rank that failed knows the reason better: let it report first, and end us
    if (state == ncclInProgress)
        state = ncclSuccess;
    TRY(nccl_error(l, asked != ncclSuccess ? asked : state, "waiting for the other ranks"));
    double now = clock_seconds();
    if (now - began > others->limit)
        return others->missing(others->arg);
    if (now - *asked_at < often)
        return ok();
    *asked_at = now;
    return others->gave_up(others->arg) ? others->missing(others->arg) : ok();
}

static struct error poll(struct device *device)
{
    struct link *l = cuda_of(device)->link;
    double began = clock_seconds(), asked_at = began;
    cudaError_t code = cudaEventRecord(l->reached, cuda_of(device)->stream);
    if (code != cudaSuccess)
        return cuda_error(code, "cudaEventRecord");
    while ((code = cudaEventQuery(l->reached)) == cudaErrorNotReady) {
        TRY(check_others(l, began, &asked_at));
        pause_briefly();
    }
    return cuda_error(code, "cudaEventQuery");
}

struct error nccl_wait(struct device *device)
{
    struct cuda *c = cuda_of(device);
    if (!c->pending)
        return ok();
    struct error e = nccl_alive(device);
    if (e.code == ERROR_NONE)
        e = poll(device);
    if (e.code != ERROR_NONE)
        abort_link(c->link);
    c->pending = false;
    return e;
}

struct error nccl_alive(struct device *device)
{
    const struct link *l = cuda_of(device)->link;
    return !l || l->comm ? ok() : error_failed("%s: cut off from the other ranks", device->name);
}

/* -------------------------------------------------------------------------------- collectives */

struct error nccl_collect(struct device *device, const struct collective *what)
{
    TRY(nccl_alive(device));
    struct cuda *c = cuda_of(device);
    c->pending = true;
    if (what->sum)
        return wait_for_call(
            c->link, ncclAllReduce(what->at, what->at, what->count, ncclFloat64, ncclSum, c->link->comm, c->stream),
            "ncclAllReduce");
    return wait_for_call(c->link,
                         ncclBroadcast(what->at, what->at, what->count, ncclInt8, what->root, c->link->comm, c->stream),
                         "ncclBroadcast");
}

static void sum(struct device *device, struct tensor slots)
{
    const struct collective what = {tensor_data(slots), (size_t)(slots.lanes * slots.lane_stride), true, 0};
    cuda_collect(device, &what);
}

static void share(struct device *device, struct tensor t, int root)
{
    size_t bytes = (size_t)(t.lanes * t.lane_stride * dtype_size(t.type));
    const struct collective what = {tensor_data(t), bytes, false, root};
    cuda_collect(device, &what);
}

/* -------------------------------------------------------------------------------- joining, leaving */

static struct error connect(struct cuda *c, const struct device_link *link)
{
    ncclUniqueId id;
    memset(&id, 0, sizeof id);
    ncclResult_t result = link->rank == 0 ? ncclGetUniqueId(&id) : ncclSuccess;
    TRY(nccl_error(c->link, result, "ncclGetUniqueId"));
    TRY(link->broadcast(link->arg, &id, sizeof id));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.minCTAs = config.maxCTAs = 1;
    result = ncclCommInitRankConfig(&c->link->comm, link->size, id, link->rank, &config);
    return wait_for_call(c->link, result, "ncclCommInitRankConfig");
}

/* A test sum and broadcast, in the scratch of norms: all ranks take part and get the same. */
static struct error test_link(struct cuda *c, const struct device_link *link)
{
    enum { COUNT, ROOT, NUMBERS };
    struct device *d = &c->device;
    double numbers[NUMBERS] = {1, link->rank == 0 ? 0.5 : 0};
    struct buffer scratch = {c->moments, (int64_t)sizeof numbers};
    struct tensor t = {&scratch, 0, F64, 1, 1, 1, 1, 1, 1};
    d->ops->write(d, (struct tensor){&scratch, 0, F64, NUMBERS, 1, 1, 1, 1, 1}, numbers);
    TRY(d->error);
    sum(d, t);
    TRY(d->error);
    t.offset = ROOT * (int64_t)sizeof(double);
    share(d, t, 0);
    TRY(d->error);
    d->ops->read(d, numbers, (struct tensor){&scratch, 0, F64, NUMBERS, 1, 1, 1, 1, 1});
    TRY(d->error);
    cudaError_t code = cudaStreamSynchronize(c->stream);
    if (code == cudaSuccess && (numbers[COUNT] != link->size || numbers[ROOT] != 0.5))
        return error_failed("NCCL: a test sum of a one from each of %d ranks gave %g", link->size, numbers[COUNT]);
    return cuda_error(code, "cudaStreamSynchronize");
}

static struct error join(struct device *device, const struct device_link *link)
{
    struct cuda *c = cuda_of(device);
    c->link = (struct link *)memory_alloc(1, sizeof *c->link);
    if (!c->link)
        return error_memory("the link to the other ranks");
    c->link->others = *link;
    struct error e = cuda_error(cudaEventCreate(&c->link->reached), "cudaEventCreate");
    if (e.code == ERROR_NONE)
        e = connect(c, link);
    if (e.code == ERROR_NONE)
        e = test_link(c, link);
    if (e.code != ERROR_NONE) {
        abort_link(c->link);
        nccl_leave(device);
        device->error = ok();
    }
    snprintf(device->joined_by, sizeof device->joined_by, "NCCL %s", nccl_version());
    return e;
}

/* By now all ranks have finished, successfully or together with an error. */
void nccl_leave(struct device *device)
{
    struct link *l = cuda_of(device)->link;
    if (!l)
        return;
    nccl_wait(device);
    if (l->comm && wait_for_call(l, ncclCommFinalize(l->comm), "ncclCommFinalize").code == ERROR_NONE)
        ncclCommDestroy(l->comm);
    else
        abort_link(l);
    if (l->reached)
        cudaEventDestroy(l->reached);
    memory_free(l);
    cuda_of(device)->link = NULL;
}

void nccl_offer(struct device_ops *ops)
{
    ops->join = join;
    ops->sum = sum;
    ops->broadcast = share;
}

const char *nccl_version(void)
{
    static char text[32];
    int version = 0;
    ncclGetVersion(&version);
    snprintf(text, sizeof text, "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    return text;
}

#else

struct error nccl_collect(struct device *device, const struct collective *what)
{
    (void)what;
    return error_failed("%s: was built without NCCL", device->name);
}

struct error nccl_wait(struct device *device)
{
    (void)device;
    return ok();
}

struct error nccl_alive(struct device *device)
{
    (void)device;
    return ok();
}

void nccl_leave(struct device *device)
{
    (void)device;
}

void nccl_offer(struct device_ops *ops)
{
    (void)ops;
}

const char *nccl_version(void)
{
    return "not built in";
}

#endif
