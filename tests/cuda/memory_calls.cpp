// "Memory Management": allocation, copies and fills. "API synchronization behavior" (section 2 of the Runtime API
// reference) says what an asynchronous copy promises:
//   - from page-locked host memory it reads when it runs, so the buffer must stay until then;
//   - from pageable memory the call may stage the bytes, so they are taken at the call;
//   - to pageable memory it "will return only once the copy has completed".
#include <stdint.h>
#include <string.h>

#include "memory.h"
#include "runtime.h"

/* -------------------------------------------------------------------------------- allocation */

// During a capture: Programming Guide, "CUDA Graphs, Prohibited and Unhandled Operations".
cudaError_t standin_malloc(void **memory, size_t bytes)
{
    cudaError_t code = enter("cudaMalloc", cudaErrorMemoryAllocation);
    if (code == cudaSuccess)
        code = memory ? refuse_in_capture() : cudaErrorInvalidValue;
    if (code != cudaSuccess)
        return leave(code);
    *memory = bytes ? device_allocate(bytes) : NULL;
    return leave(bytes && !*memory ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t standin_malloc_host(void **memory, size_t bytes)
{
    cudaError_t code = enter("cudaMallocHost", cudaErrorMemoryAllocation);
    if (code == cudaSuccess)
        code = memory ? refuse_in_capture() : cudaErrorInvalidValue;
    if (code != cudaSuccess)
        return leave(code);
    *memory = bytes ? pinned_allocate(bytes) : NULL;
    return leave(bytes && !*memory ? cudaErrorMemoryAllocation : cudaSuccess);
}

// "If the memory has already been freed ... cudaErrorInvalidValue is returned. If devPtr is 0, no operation is
// performed." After a fault memory is freed nevertheless, as it is with the context.
static cudaError_t free_with(const char *call, void *memory, bool (*give_back)(void *))
{
    cudaError_t code = enter(call, cudaSuccess), refused = refuse_in_capture();
    if (code == cudaSuccess)
        code = refused;
    if (memory && refused == cudaSuccess && !give_back(memory))
        code = cudaErrorInvalidValue;
    return leave(code);
}

cudaError_t cudaFree(void *memory)
{
    return free_with("cudaFree", memory, device_free);
}

cudaError_t cudaFreeHost(void *memory)
{
    return free_with("cudaFreeHost", memory, pinned_free);
}

/* -------------------------------------------------------------------------------- copies */

enum place { PAGEABLE, PINNED, DEVICE };

// One side of a copy: `height` rows of `width` bytes.
struct side {
    char *at;
    size_t pitch;
    enum place place;
};

struct transfer {
    struct side to, from;
    size_t width, height;
};

static size_t extent(const struct side &s, size_t width, size_t height)
{
    return width && height ? (height - 1) * s.pitch + width : 0;
}

static enum place place_of(const void *at)
{
    if (device_holds(at, 1))
        return DEVICE;
    return pinned_holds(at, 1) ? PINNED : PAGEABLE;
}

// Whether it lies entirely in the allocation where it begins; pageable memory cannot be checked.
static bool lies_inside(const struct side &s, size_t width, size_t height)
{
    size_t bytes = extent(s, width, height);
    if (s.place == DEVICE)
        return device_holds(s.at, bytes);
    return s.place == PAGEABLE || pinned_holds(s.at, bytes);
}

static cudaError_t check_direction(const struct transfer &t, cudaMemcpyKind kind)
{
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return cudaErrorInvalidMemcpyDirection;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault)
        return cudaSuccess;
    return from_device == (t.from.place == DEVICE) && to_device == (t.to.place == DEVICE) ? cudaSuccess
                                                                                          : cudaErrorInvalidValue;
}

static bool overlap(const struct transfer &t)
{
    uintptr_t to = (uintptr_t)t.to.at, from = (uintptr_t)t.from.at;
    return to < from + extent(t.from, t.width, t.height) && from < to + extent(t.to, t.width, t.height);
}

static void move_rows(const struct transfer &t)
{
    for (size_t row = 0; row < t.height; row++)
        memcpy(t.to.at + row * t.to.pitch, t.from.at + row * t.from.pitch, t.width);
}

static enum progress carry_out(const struct transfer &t)
{
    if (lies_inside(t.to, t.width, t.height) && lies_inside(t.from, t.width, t.height))
        move_rows(t);
    else
        fault(cudaErrorIllegalAddress, "a copy ran after its memory was freed");
    return DONE;
}

// Pageable bytes are read now and kept with the operation.
static cudaError_t enqueue_staged(const struct transfer &t, cudaStream_t stream)
{
    std::vector<char> bytes(t.width * t.height);
    struct transfer stage = t;
    stage.to = {bytes.data(), t.width, PAGEABLE};
    move_rows(stage);
    return enqueue(stream, [t, bytes]() {
        struct transfer rest = t;
        rest.from = {(char *)bytes.data(), t.width, PAGEABLE};
        return carry_out(rest);
    });
}

static cudaError_t request(const struct transfer &t, cudaMemcpyKind kind, cudaStream_t stream)
{
    CUstream_st *s = stream_of(stream);
    if (!s)
        return cudaErrorInvalidResourceHandle;
    if (t.width == 0 || t.height == 0)
        return cudaSuccess;
    if (!t.to.at || !t.from.at)
        return cudaErrorInvalidValue;
    cudaError_t code = check_direction(t, kind);
    if (code != cudaSuccess)
        return code;
    if (!lies_inside(t.to, t.width, t.height) || !lies_inside(t.from, t.width, t.height) || overlap(t))
        return cudaErrorInvalidValue;
    bool pageable = t.to.place == PAGEABLE || t.from.place == PAGEABLE;
    if (pageable && captures(stream)) // it would have to wait for the stream
        return refuse_in_capture();
    if (t.from.place == PAGEABLE)
        code = enqueue_staged(t, stream);
    else
        code = enqueue(stream, [t]() { return carry_out(t); });
    if (code == cudaSuccess && t.to.place == PAGEABLE) {
        drain(s);
        code = runtime.sticky;
    }
    return code;
}

static struct side side_of(const void *at, size_t pitch)
{
    return {(char *)at, pitch, place_of(at)};
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    cudaError_t code = enter("cudaMemcpyAsync", cudaErrorInvalidValue);
    if (code == cudaSuccess)
        code = request({side_of(to, bytes), side_of(from, bytes), bytes, 1}, kind, stream);
    return leave(code);
}

// "width must not exceed either dpitch or spitch."
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    cudaError_t code = enter("cudaMemcpy2DAsync", cudaErrorInvalidValue);
    if (code == cudaSuccess && (width > to_pitch || width > from_pitch))
        code = cudaErrorInvalidPitchValue;
    if (code == cudaSuccess)
        code = request({side_of(to, to_pitch), side_of(from, from_pitch), width, height}, kind, stream);
    return leave(code);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    cudaError_t code = enter("cudaMemsetAsync", cudaErrorInvalidValue);
    if (code == cudaSuccess && !stream_of(stream))
        code = cudaErrorInvalidResourceHandle;
    if (code != cudaSuccess || bytes == 0)
        return leave(code);
    if (!device_holds(to, bytes))
        return leave(cudaErrorInvalidValue);
    return leave(enqueue(stream, [to, value, bytes]() {
        if (device_holds(to, bytes))
            memset(to, value, bytes);
        else
            fault(cudaErrorIllegalAddress, "a fill ran after its memory was freed");
        return DONE;
    }));
}
