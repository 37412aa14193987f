// NCCL between the processes of one machine ("NCCL API", "Communicator Creation and Management Functions", "Collective
// Communication Functions"). A collective is an operation of a stream like a kernel: it begins when its turn comes,
// lasts until all ranks have arrived ("Using NCCL, Collective Operations": every rank must call it, with the same count
// and type), and a rank that dies leaves the others waiting until they abort ("Fault Tolerance"). A communicator that
// does not block posts a collective as late as it may, while it is asked whether it has.
#include <nccl.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>
#include <set>

#include "meeting_table.h"
#include "memory.h"
#include "runtime.h"

int64_t communicators_alive;

enum phase { IDLE, GIVE, TAKE };

struct ncclComm {
    struct table *table;
    int rank, ranks;
    char id[33];
    bool joined, blocking;
    ncclResult_t error;   /* asynchronous; the first one stays */
    CUstream_st *posting; /* where a collective is still to be posted, */
    operation posted;     /* this one, */
    int questions;        /* after so many more questions */
    uint64_t part;        /* parts of collectives so far */
    enum phase phase;
    size_t done; /* bytes of the current collective */
};

static std::set<ncclComm *> &communicators()
{
    static std::set<ncclComm *> all;
    return all;
}

/* -------------------------------------------------------------------------------- calls in general */

static ncclResult_t begin(const char *call)
{
    cudaError_t code = enter(call, cudaErrorUnknown);
    if (code == cudaErrorUnknown) // the one that must fail
        return ncclSystemError;
    return code == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

static void set_error(ncclComm *c, ncclResult_t error, const char *what, int rank)
{
    if (c->error != ncclSuccess)
        return;
    c->error = error;
    if (error == ncclInvalidUsage)
        fprintf(stderr, "stand-in: NCCL rank %d: %s rank %d\n", c->rank, what, rank);
}

ncclResult_t ncclGetVersion(int *version)
{
    ncclResult_t result = begin("ncclGetVersion");
    *version = NCCL_VERSION_CODE;
    return result;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "NCCL operation in progress"};
    return result <= ncclInProgress ? texts[result] : "unknown result code";
}

// "A human-readable string corresponding to the last error": the stand-in has printed it on stderr.
const char *ncclGetLastError(ncclComm_t)
{
    return "";
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    ncclResult_t result = begin("ncclGetUniqueId");
    if (result != ncclSuccess)
        return result;
    memset(id, 0, sizeof(*id));
    FILE *f = fopen("/dev/urandom", "rb");
    size_t got = f ? fread(id->internal, 1, 16, f) : 0;
    if (f)
        fclose(f);
    return got == 16 ? ncclSuccess : ncclSystemError;
}

/* -------------------------------------------------------------------------------- communicators */

// "Using multiple ranks on one device is not supported": NCCL calls it a duplicate GPU.
static bool shares_a_device(const ncclComm *c)
{
    for (int r = 0; r < c->ranks; r++)
        if (r != c->rank && c->table->seats[r].device == c->table->seats[c->rank].device)
            return true;
    return false;
}

static bool try_to_join(ncclComm *c)
{
    if (c->joined || !table_is_full(c->table, c->ranks))
        return c->joined;
    c->joined = true;
    if (c->rank == 0)
        table_unlink(c->id);
    if (shares_a_device(c))
        set_error(c, ncclInvalidUsage, "a device is shared, as seen by", c->rank);
    return true;
}

// Whether nothing remains to be posted.
static bool try_to_post(ncclComm *c)
{
    if (!c->posting || --c->questions > 0)
        return !c->posting;
    c->posting->posting = false;
    enqueue(c->posting, c->posted);
    c->posting = NULL;
    return true;
}

static void forget(ncclComm *c)
{
    if (c->posting)
        c->posting->posting = false;
    if (!c->joined)
        table_unlink(c->id);
    table_leave(c->table, c->ranks);
    communicators().erase(c);
    communicators_alive--;
    delete c;
}

// Blocking unless the config says otherwise; then it returns ncclInProgress, and ncclCommGetAsyncError tells when all
// have arrived.
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    ncclResult_t result = begin("ncclCommInitRankConfig");
    if (result != ncclSuccess)
        return result;
    if (!comm || rank < 0 || rank >= ranks || ranks > MOST_RANKS)
        return ncclInvalidArgument;
    ncclComm *c = new ncclComm{};
    c->rank = rank;
    c->ranks = ranks;
    c->blocking = !config || config->blocking != 0;
    for (int i = 0; i < 16; i++)
        snprintf(c->id + 2 * i, 3, "%02x", (unsigned char)id.internal[i]);
    c->table = table_join(c->id, rank, ranks, visible_devices()[(size_t)runtime.device]);
    if (!c->table) {
        delete c;
        return ncclSystemError;
    }
    communicators().insert(c);
    communicators_alive++;
    *comm = c;
    if (!c->blocking)
        return ncclInProgress;
    while (!try_to_join(c))
        sched_yield();
    result = c->error;
    if (result != ncclSuccess) {
        forget(c);
        *comm = NULL;
    }
    return result;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    ncclResult_t result = begin("ncclCommGetAsyncError");
    if (result != ncclSuccess)
        return result;
    if (!communicators().count(comm))
        return ncclInvalidArgument;
    if (!try_to_join(comm) || !try_to_post(comm)) {
        *error = ncclInProgress;
        return ncclSuccess;
    }
    int missing = comm->phase == IDLE ? -1 : table_missing(comm->table, comm->ranks, comm->part, comm->phase == GIVE);
    if (missing >= 0)
        set_error(comm, ncclRemoteError, "", missing);
    *error = comm->error;
    return ncclSuccess;
}

// "Flush all uncompleted operations": they are those of the streams, which the program has waited for.
ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    ncclResult_t result = begin("ncclCommFinalize");
    if (!communicators().count(comm))
        return ncclInvalidArgument;
    return result != ncclSuccess ? result : comm->phase == IDLE ? ncclSuccess : ncclInvalidUsage;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    enter("ncclCommDestroy", cudaSuccess);
    if (!communicators().count(comm))
        return ncclInvalidArgument;
    forget(comm);
    return ncclSuccess;
}

// "Frees resources associated with the communicator and aborts any operations that might still be running."
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    enter("ncclCommAbort", cudaSuccess);
    if (!communicators().count(comm))
        return ncclInvalidArgument;
    comm->table->seats[comm->rank].gone = 1;
    forget(comm);
    return ncclSuccess;
}

/* -------------------------------------------------------------------------------- collectives */

enum kind { ALL_REDUCE, BROADCAST };

struct call {
    ncclComm *comm;
    const char *send;
    char *recv;
    size_t bytes;
    struct collective what;
};

template <class T> static T combine(T x, T y, int op)
{
    switch (op) {
    case ncclSum:
        return (T)(x + y);
    case ncclProd:
        return (T)(x * y);
    case ncclMax:
        return std::max(x, y);
    default:
        return std::min(x, y);
    }
}

// In the order of ranks, so that all get the same bits.
template <class T> static void reduce(const ncclComm *c, char *to, size_t bytes, int op)
{
    for (size_t i = 0; i < bytes / sizeof(T); i++) {
        T sum = ((const T *)c->table->trays[0])[i];
        for (int r = 1; r < c->ranks; r++)
            sum = combine(sum, ((const T *)c->table->trays[r])[i], op);
        memcpy(to + i * sizeof(T), &sum, sizeof(T));
    }
}

struct number {
    ncclDataType_t type;
    size_t bytes;
    void (*reduce)(const ncclComm *c, char *to, size_t bytes, int op);
};

static const struct number *number_of(int type)
{
    static const struct number numbers[] = {
        {ncclInt8, 1, reduce<int8_t>},     {ncclUint8, 1, reduce<uint8_t>},  {ncclInt32, 4, reduce<int32_t>},
        {ncclUint32, 4, reduce<uint32_t>}, {ncclInt64, 8, reduce<int64_t>},  {ncclUint64, 8, reduce<uint64_t>},
        {ncclFloat32, 4, reduce<float>},   {ncclFloat64, 8, reduce<double>},
    };
    for (const struct number &n : numbers)
        if (n.type == type)
            return &n;
    return NULL;
}

static void give(const struct call &call, size_t bytes)
{
    ncclComm *c = call.comm;
    struct seat &seat = c->table->seats[c->rank];
    if (call.what.kind == ALL_REDUCE || c->rank == call.what.root)
        memcpy(c->table->trays[c->rank], call.send + c->done, bytes);
    seat.collective = call.what;
    seat.given = ++c->part;
    c->phase = TAKE;
}

static void take(const struct call &call, size_t bytes)
{
    ncclComm *c = call.comm;
    for (int r = 0; r < c->ranks; r++)
        if (memcmp(&c->table->seats[r].collective, &call.what, sizeof(call.what)) != 0)
            set_error(c, ncclInvalidUsage, "calls another collective than", r);
    if (call.what.kind == BROADCAST)
        memcpy(call.recv + c->done, c->table->trays[call.what.root], bytes);
    else
        number_of(call.what.type)->reduce(c, call.recv + c->done, bytes, call.what.op);
    c->table->seats[c->rank].taken = c->part;
    c->done += bytes;
    c->phase = c->done < call.bytes ? GIVE : IDLE;
}

static enum progress get_on(const struct call &call)
{
    ncclComm *c = call.comm;
    if (!communicators().count(c)) // aborted or destroyed
        return DONE;
    if (c->phase == IDLE) {
        if (!device_holds(call.send, call.bytes) || !device_holds(call.recv, call.bytes)) {
            fault(cudaErrorIllegalAddress, "a collective ran after its memory was freed");
            return DONE;
        }
        c->done = 0;
        c->phase = GIVE;
    }
    size_t bytes = std::min(call.bytes - c->done, (size_t)TRAY);
    if (c->phase == GIVE && table_all_taken(c->table, c->ranks, c->part))
        give(call, bytes);
    if (c->phase == TAKE && table_all_given(c->table, c->ranks, c->part) && c->error == ncclSuccess)
        take(call, bytes);
    return c->phase == IDLE ? DONE : BUSY;
}

static ncclResult_t start(const char *name, const struct call &call, cudaStream_t stream)
{
    ncclResult_t result = begin(name);
    if (result != ncclSuccess)
        return result;
    if (!communicators().count(call.comm) || !stream_of(stream) || !call.bytes)
        return ncclInvalidArgument;
    if (!call.comm->joined)
        return ncclInvalidUsage;
    if (call.comm->error != ncclSuccess)
        return call.comm->error;
    if (call.comm->posting || (captures(stream) && !call.comm->blocking)) {
        fprintf(stderr, "stand-in: NCCL: %s: %s\n", name,
                call.comm->posting ? "the call before it is still in progress"
                                   : "NCCL does not say what a communicator that does not block adds to a capture");
        return ncclInvalidUsage;
    }
    if (!device_holds(call.send, call.bytes) || !device_holds(call.recv, call.bytes))
        return ncclInvalidArgument;
    operation op = [call]() { return get_on(call); };
    if (call.comm->blocking)
        return enqueue(stream, op) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
    call.comm->posting = stream_of(stream);
    call.comm->posting->posting = true;
    call.comm->posted = op;
    call.comm->questions = 2;
    return ncclInProgress;
}

static size_t bytes_of(size_t count, int type)
{
    return number_of(type) ? count * number_of(type)->bytes : 0;
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream)
{
    struct collective what = {ALL_REDUCE, type, op, 0, (int64_t)count};
    return start("ncclAllReduce", {comm, (const char *)send, (char *)recv, bytes_of(count, type), what}, stream);
}

ncclResult_t ncclBroadcast(const void *send, void *recv, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream)
{
    struct collective what = {BROADCAST, type, 0, root, (int64_t)count};
    if (communicators().count(comm) && (root < 0 || root >= comm->ranks))
        return ncclInvalidArgument;
    const void *from =
        communicators().count(comm) && comm->rank != root ? recv : send; // "send" counts on the root only
    return start("ncclBroadcast", {comm, (const char *)from, (char *)recv, bytes_of(count, type), what}, stream);
}
