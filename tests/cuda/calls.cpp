// The frame around every call: counting, failing on request, sticky errors, and the report at the end.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <map>

#include "memory.h"
#include "runtime.h"

struct runtime runtime;

static std::map<std::string, int64_t> &counts()
{
    static std::map<std::string, int64_t> c;
    return c;
}

/* -------------------------------------------------------------------------------- report */

static void print_usage(FILE *f, const char *name, const struct usage &u)
{
    fprintf(f, "\"%s\": {\"made\": %lld, \"alive\": %lld, \"bytes\": %lld, \"peak\": %lld}, ", name, (long long)u.made,
            (long long)u.alive, (long long)u.bytes, (long long)u.peak);
}

// One line of JSON for each process, appended to the file, so that the ranks of a run can share it.
static void report()
{
    const char *path = getenv("ZOODIP_STANDIN_REPORT"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    FILE *f = path ? fopen(path, "a") : NULL;
    if (!f)
        return;
    int64_t objects = streams_alive + events_alive + graphs_alive + communicators_alive;
    setvbuf(f, NULL, _IOFBF, 1 << 16);
    fprintf(f, "{\"rank\": %d, ", rank ? atoi(rank) : 0);
    print_usage(f, "device", device_usage);
    print_usage(f, "pinned", pinned_usage);
    fprintf(f, "\"streams\": %lld, \"events\": %lld, \"graphs\": %lld, \"communicators\": %lld, \"leaks\": %lld, ",
            (long long)streams_alive, (long long)events_alive, (long long)graphs_alive, (long long)communicators_alive,
            (long long)(device_usage.alive + pinned_usage.alive + objects));
    fprintf(f, "\"faults\": %lld, \"fallible\": %lld, \"calls\": {", (long long)runtime.faults,
            (long long)runtime.fallible);
    const char *comma = "";
    for (auto &[call, count] : counts()) {
        fprintf(f, "%s\"%s\": %lld", comma, call.c_str(), (long long)count);
        comma = ", ";
    }
    fprintf(f, "}}\n");
    fclose(f);
}

static void count_call(const char *call)
{
    static bool asked;
    counts()[call]++; // its table must outlive the report, which is registered later
    if (!asked)
        atexit(report);
    asked = true;
}

/* -------------------------------------------------------------------------------- the frame */

static bool fails_here()
{
    static const char *asked = getenv("ZOODIP_STANDIN_FAIL");
    return ++runtime.fallible == (asked ? atoll(asked) : 0);
}

// "cudaErrorInsufficientDriver: the installed NVIDIA CUDA driver is older than the CUDA runtime library"; minor
// versions of one major version run with each other (CUDA Compatibility, "Minor Version Compatibility").
static cudaError_t driver_and_device()
{
    const char *asked = getenv("ZOODIP_STANDIN_DRIVER");
    if (asked && atoi(asked) / 1000 < CUDART_VERSION / 1000)
        return cudaErrorInsufficientDriver;
    return visible_devices().empty() ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t enter(const char *call, cudaError_t injected)
{
    static cudaError_t there = driver_and_device();
    count_call(call);
    if (there != cudaSuccess)
        return there;
    if (runtime.sticky != cudaSuccess)
        return runtime.sticky;
    if (injected == cudaSuccess || !fails_here())
        return cudaSuccess;
    if (injected == cudaErrorLaunchFailure || injected == cudaErrorECCUncorrectable)
        runtime.sticky = injected;
    return injected;
}

cudaError_t leave(cudaError_t code)
{
    if (code != cudaSuccess && code != cudaErrorNotReady) // "cudaErrorNotReady ... is not actually an error"
        runtime.last = code;
    return code;
}

void fault(cudaError_t code, const char *what)
{
    if (what)
        fprintf(stderr, "stand-in: %s\n", what);
    runtime.faults++;
    if (runtime.sticky == cudaSuccess)
        runtime.sticky = code;
}

/* -------------------------------------------------------------------------------- error handling */

struct error_text {
    cudaError_t code;
    const char *name, *text;
};

static const struct error_text error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources", "too many resources requested for launch"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched", "capture was not initiated in this stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
};

static const struct error_text &text_of(cudaError_t code)
{
    static const struct error_text unknown = {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"};
    for (const struct error_text &t : error_texts)
        if (t.code == code)
            return t;
    return unknown;
}

// "Returns the last error that has been produced by any of the runtime calls ... and resets it to cudaSuccess"; a fault
// of the device stays.
cudaError_t cudaGetLastError(void)
{
    count_call("cudaGetLastError");
    cudaError_t code = cudaPeekAtLastError();
    runtime.last = cudaSuccess;
    return code;
}

cudaError_t cudaPeekAtLastError(void)
{
    return runtime.sticky != cudaSuccess ? runtime.sticky : runtime.last;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return text_of(error).text;
}

const char *cudaGetErrorName(cudaError_t error)
{
    return text_of(error).name;
}
