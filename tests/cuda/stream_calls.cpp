// "Stream Management": queues of work, and the capture of a stream into a graph ("CUDA Graphs" in the Programming
// Guide: "Creating a Graph Using Stream Capture", "Prohibited and Unhandled Operations").
#include <sched.h>
#include <set>

#include "runtime.h"

int64_t streams_alive;

static std::set<CUstream_st *> &streams()
{
    static std::set<CUstream_st *> all;
    return all;
}

// The legacy default stream waits for all blocking streams, and they for it.
static CUstream_st *legacy()
{
    static CUstream_st stream = {true, {}, NO_CAPTURE, cudaStreamCaptureModeGlobal, {}, false};
    return &stream;
}

CUstream_st *stream_of(cudaStream_t stream)
{
    if (!stream)
        return legacy();
    return streams().count(stream) ? stream : NULL;
}

bool captures(cudaStream_t stream)
{
    return stream_of(stream)->capture != NO_CAPTURE;
}

/* -------------------------------------------------------------------------------- the queue */

bool advance(CUstream_st *stream)
{
    if (stream->pending.empty())
        return false;
    if (runtime.sticky != cudaSuccess) // nothing runs after a fault
        stream->pending.clear();
    else if (stream->pending.front()() == DONE)
        stream->pending.pop_front();
    else
        sched_yield();
    return !stream->pending.empty();
}

void drain(CUstream_st *stream)
{
    while (advance(stream))
        ;
}

static void keep_legacy_order(CUstream_st *stream)
{
    if (stream != legacy() && stream->blocking)
        drain(legacy());
    for (CUstream_st *other : streams())
        if (stream == legacy() && other->blocking && other->capture == NO_CAPTURE)
            drain(other);
}

static void spoil_captures()
{
    for (CUstream_st *s : streams())
        if (s->capture == CAPTURING)
            s->capture = SPOILED;
}

static bool anyone_captures()
{
    for (CUstream_st *s : streams())
        if (s->capture != NO_CAPTURE)
            return true;
    return false;
}

// "cudaStreamCaptureModeGlobal: potentially unsafe API calls are prohibited"; relaxed captures allow them.
cudaError_t refuse_in_capture()
{
    bool refused = false;
    for (CUstream_st *s : streams())
        refused = refused || (s->capture != NO_CAPTURE && s->mode != cudaStreamCaptureModeRelaxed);
    if (refused)
        spoil_captures();
    return refused ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

// NCCL, ncclCommGetAsyncError: "before the states change into ncclSuccess, users are not allowed to issue CUDA kernel
// to the streams being used by NCCL", nor may they wait for such a stream ("Nonblocking Group Operation").
static void refuse_while_nccl_posts(const CUstream_st *stream)
{
    if (stream->posting)
        fault(cudaErrorLaunchFailure, "a stream was used while NCCL was still posting to it");
}

cudaError_t enqueue(cudaStream_t stream, operation op)
{
    CUstream_st *s = stream_of(stream);
    refuse_while_nccl_posts(s);
    if (s->capture == SPOILED)
        return cudaErrorStreamCaptureInvalidated;
    if (s->capture == CAPTURING) {
        s->captured.push_back(op);
        return cudaSuccess;
    }
    if (s == legacy() && anyone_captures()) {
        spoil_captures();
        return cudaErrorStreamCaptureImplicit;
    }
    keep_legacy_order(s);
    s->pending.push_back(op);
    return cudaSuccess;
}

/* -------------------------------------------------------------------------------- calls */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    cudaError_t code = enter("cudaStreamCreateWithFlags", cudaErrorMemoryAllocation);
    if (code == cudaSuccess && (!stream || flags > cudaStreamNonBlocking))
        code = cudaErrorInvalidValue;
    if (code != cudaSuccess)
        return leave(code);
    *stream = new CUstream_st{flags == cudaStreamDefault, {}, NO_CAPTURE, cudaStreamCaptureModeGlobal, {}, false};
    streams().insert(*stream);
    streams_alive++;
    return cudaSuccess;
}

// "In case the device is still doing work in the stream ... the resources associated with the stream will be released
// automatically once the device has completed all work": the work is done, as late as possible.
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    cudaError_t code = enter("cudaStreamDestroy", cudaSuccess);
    if (!stream || !streams().count(stream))
        return leave(cudaErrorInvalidResourceHandle);
    drain(stream);
    streams().erase(stream);
    delete stream;
    streams_alive--;
    return leave(code);
}

// "It is invalid to synchronize or query the execution status of a stream which is being captured."
cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    cudaError_t code = enter("cudaStreamSynchronize", cudaErrorECCUncorrectable);
    CUstream_st *s = stream_of(stream);
    if (code == cudaSuccess && !s)
        code = cudaErrorInvalidResourceHandle;
    if (code == cudaSuccess && (s->capture != NO_CAPTURE || (s == legacy() && anyone_captures()))) {
        spoil_captures();
        code = cudaErrorStreamCaptureUnsupported;
    }
    if (code != cudaSuccess)
        return leave(code);
    refuse_while_nccl_posts(s);
    keep_legacy_order(s);
    drain(s);
    return leave(runtime.sticky);
}

// "Capture must not be initiated if stream is cudaStreamLegacy."
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    cudaError_t code = enter("cudaStreamBeginCapture", cudaErrorMemoryAllocation);
    CUstream_st *s = stream_of(stream);
    if (code == cudaSuccess && !s)
        code = cudaErrorInvalidResourceHandle;
    if (code == cudaSuccess && s == legacy())
        code = cudaErrorStreamCaptureUnsupported;
    if (code == cudaSuccess && s->capture != NO_CAPTURE)
        code = cudaErrorInvalidValue;
    if (code != cudaSuccess)
        return leave(code);
    s->capture = CAPTURING;
    s->mode = mode;
    return cudaSuccess;
}

// "If the capture was invalidated ... cudaErrorStreamCaptureInvalidated", and no graph; the stream is free again.
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    cudaError_t code = enter("cudaStreamEndCapture", cudaErrorMemoryAllocation);
    CUstream_st *s = stream_of(stream);
    if (!s || !graph)
        return leave(code != cudaSuccess ? code : s ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle);
    *graph = NULL;
    if (s->capture == NO_CAPTURE)
        return leave(code != cudaSuccess ? code : cudaErrorStreamCaptureUnmatched);
    if (code == cudaSuccess && s->capture == SPOILED)
        code = cudaErrorStreamCaptureInvalidated;
    if (code == cudaSuccess)
        *graph = graph_of(s->captured);
    s->captured.clear();
    s->capture = NO_CAPTURE;
    return leave(code);
}
