// "Event Management": marks in a stream that happen when the work before them has run.
#include <time.h>
#include <set>

#include "runtime.h"

int64_t events_alive;

struct CUevent_st {
    CUstream_st *stream;     /* where it was last recorded; NULL: nowhere yet */
    int64_t asked, happened; /* records so far, in the stream and run */
    double when;
    bool captured;
};

static std::set<CUevent_st *> &events()
{
    static std::set<CUevent_st *> all;
    return all;
}

static double now()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool has_happened(const CUevent_st *event)
{
    return event->happened == event->asked;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    cudaError_t code = enter("cudaEventCreate", cudaErrorMemoryAllocation);
    if (code == cudaSuccess && !event)
        code = cudaErrorInvalidValue;
    if (code != cudaSuccess)
        return leave(code);
    *event = new CUevent_st{};
    events().insert(*event);
    events_alive++;
    return cudaSuccess;
}

// "An event may be destroyed before it is complete": records still in a stream notice that it is gone.
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    cudaError_t code = enter("cudaEventDestroy", cudaSuccess);
    if (events().erase(event) == 0)
        return leave(cudaErrorInvalidResourceHandle);
    delete event;
    events_alive--;
    return leave(code);
}

// In a capture the event only stands for a node of the graph ("Event Management, cudaEventRecord").
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    cudaError_t code = enter("cudaEventRecord", cudaErrorLaunchFailure);
    if (code == cudaSuccess && (!events().count(event) || !stream_of(stream)))
        code = cudaErrorInvalidResourceHandle;
    if (code != cudaSuccess)
        return leave(code);
    event->captured = captures(stream);
    if (event->captured)
        return cudaSuccess;
    event->stream = stream_of(stream);
    int64_t number = ++event->asked;
    return leave(enqueue(stream, [event, number]() {
        if (events().count(event)) {
            event->happened = number;
            event->when = now();
        }
        return DONE;
    }));
}

static cudaError_t check(cudaEvent_t event)
{
    if (!events().count(event))
        return cudaErrorInvalidResourceHandle;
    return event->captured ? cudaErrorCapturedEvent : cudaSuccess;
}

// "If cudaEventRecord has not been called on event, the function returns cudaSuccess immediately."
cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    cudaError_t code = enter("cudaEventSynchronize", cudaErrorECCUncorrectable);
    if (code == cudaSuccess)
        code = check(event);
    if (code != cudaSuccess)
        return leave(code);
    while (!has_happened(event) && runtime.sticky == cudaSuccess)
        advance(event->stream);
    return leave(runtime.sticky);
}

// Each query advances the stream by one operation, as time would.
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    cudaError_t code = enter("cudaEventQuery", cudaErrorECCUncorrectable);
    if (code == cudaSuccess)
        code = check(event);
    if (code != cudaSuccess || has_happened(event))
        return leave(code);
    advance(event->stream);
    if (runtime.sticky != cudaSuccess)
        return leave(runtime.sticky);
    return has_happened(event) ? cudaSuccess : cudaErrorNotReady;
}

// "If cudaEventRecord has not been called on either event then cudaErrorInvalidResourceHandle is returned. If ... not
// yet completed on both events, cudaErrorNotReady is returned."
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    cudaError_t code = enter("cudaEventElapsedTime", cudaErrorInvalidValue);
    if (code == cudaSuccess)
        code = check(start);
    if (code == cudaSuccess)
        code = check(end);
    if (code == cudaSuccess && (start->asked == 0 || end->asked == 0))
        code = cudaErrorInvalidResourceHandle;
    if (code == cudaSuccess && (!has_happened(start) || !has_happened(end)))
        code = cudaErrorNotReady;
    if (code == cudaSuccess)
        *milliseconds = (float)(1e3 * (end->when - start->when));
    return leave(code);
}
