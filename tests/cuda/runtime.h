/* tests/cuda/runtime.h
 *
 * Shared by the files of the stand-in's runtime. Every call begins with enter() and ends with leave(): between them the
 * call is counted, driver and device exist, there is no earlier fault, and this is not the call that
 * ZOODIP_STANDIN_FAIL asks to fail.
 *
 * Work is deferred: a stream is a queue of operations that runs only when someone waits for it, the worst that the
 * documentation allows. So a buffer freed or changed too early is noticed.
 */
#ifndef ZOODIP_TESTS_CUDA_RUNTIME_H
#define ZOODIP_TESTS_CUDA_RUNTIME_H

#include <stdint.h>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "host/cuda_runtime.h"
#include "units.h"

enum progress { DONE, BUSY };

/* Part of a stream's work. BUSY: it is waiting for others; ask again. */
typedef std::function<enum progress()> operation;

enum capture { NO_CAPTURE, CAPTURING, SPOILED };

struct CUstream_st {
    bool blocking; /* in order with the legacy stream */
    std::deque<operation> pending;
    enum capture capture;
    cudaStreamCaptureMode mode;
    std::vector<operation> captured;
    bool posting; /* NCCL is still putting a collective into it, in the background */
};

/* The runtime's state; one for the process. */
struct runtime {
    cudaError_t sticky, last; /* a fault of the device, permanent; the last refusal */
    int64_t fallible;         /* calls so far that could fail */
    int64_t faults;
    int device;
};

extern struct runtime runtime;

/* Begins every call. `injected`: what to return if this is the call chosen to fail; cudaSuccess: it cannot fail. */
cudaError_t enter(const char *call, cudaError_t injected);
cudaError_t leave(cudaError_t code); /* remembers a refusal for cudaGetLastError */

/* A fault during work: everything after it fails. */
void fault(cudaError_t code, const char *what);

/* Devices visible under CUDA_VISIBLE_DEVICES, by the machine's numbers; and the model's limits. */
std::vector<int> visible_devices();
struct model {
    const char *name;
    int major, minor, processors;
    size_t shared_most;
    struct units units;
};
const struct model &device_model();

/* The stream of a handle (NULL: the legacy one), or NULL if there is none. */
CUstream_st *stream_of(cudaStream_t stream);

/* Adds work to a stream, or to the graph it captures. A fault, while NCCL is posting: the order is then chance. */
cudaError_t enqueue(cudaStream_t stream, operation op);
bool advance(CUstream_st *stream); /* runs its next operation, if it can; false: nothing is left */
void drain(CUstream_st *stream);

/* Refuses a call that is not allowed during a capture, and invalidates the current captures. */
cudaError_t refuse_in_capture();
bool captures(cudaStream_t stream);

/* A graph of recorded work. */
cudaGraph_t graph_of(const std::vector<operation> &work);

/* Objects that the program must free, for the report. */
extern int64_t streams_alive, events_alive, graphs_alive, communicators_alive;

#endif
