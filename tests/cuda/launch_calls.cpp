// "Execution Control": kernels into a stream. Limits: Programming Guide, table "Technical Specifications per Compute
// Capability"; more than 48 KiB of shared memory has to be asked for first ("Shared Memory" of compute capability 7.x
// on).
#include <algorithm>
#include <map>

#include "block.h"
#include "runtime.h"

static const size_t WITHOUT_ASKING = 48 << 10, MOST_ARGUMENT = 4096;

static std::map<void *, size_t> &asked_for()
{
    static std::map<void *, size_t> bytes;
    return bytes;
}

cudaError_t standin_function_attribute(void *kernel, cudaFuncAttribute attribute, int value)
{
    cudaError_t code = enter("cudaFuncSetAttribute", cudaErrorInvalidValue);
    if (code != cudaSuccess)
        return leave(code);
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout)
        return leave(value < -1 || value > 100 ? cudaErrorInvalidValue : cudaSuccess);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        (size_t)value > device_model().shared_most)
        return leave(cudaErrorInvalidValue);
    asked_for()[kernel] = (size_t)value;
    return cudaSuccess;
}

static bool between(unsigned value, unsigned most)
{
    return value >= 1 && value <= most;
}

static cudaError_t check(const struct launch &l)
{
    const dim3 &g = l.grid, &b = l.block;
    bool grid = between(g.x, 0x7fffffffu) && between(g.y, 65535) && between(g.z, 65535);
    bool block = between(b.x, 1024) && between(b.y, 1024) && between(b.z, 64);
    if (!grid || !block || (uint64_t)b.x * b.y * b.z > MOST_THREADS)
        return cudaErrorInvalidConfiguration;
    auto asked = asked_for().find(l.kernel);
    size_t most = asked == asked_for().end() ? WITHOUT_ASKING : std::max(asked->second, WITHOUT_ASKING);
    return l.shared > most || l.args.size() > MOST_ARGUMENT ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t standin_launch(void *kernel, void (*call)(void *, const void *), const void *args, size_t bytes, dim3 grid,
                           dim3 block, size_t shared, cudaStream_t stream)
{
    cudaError_t code = enter("cudaLaunchKernel", cudaErrorLaunchOutOfResources);
    if (code == cudaSuccess && !stream_of(stream))
        code = cudaErrorInvalidResourceHandle;
    if (code != cudaSuccess)
        return leave(code);
    struct launch l = {kernel, call, {(const char *)args, (const char *)args + bytes}, grid, block, shared};
    code = check(l);
    if (code != cudaSuccess)
        return leave(code);
    return leave(enqueue(stream, [l]() {
        if (!run_grid(l))
            fault(cudaErrorLaunchFailure, NULL); // the kernel has said why
        return DONE;
    }));
}
