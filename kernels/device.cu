/* kernels/device.cu
 *
 * The CUDA device: a GPU, one stream, memory, and weights.
 *
 * Idea. Ops enqueue kernels on one stream. Weights are packed on the host (device/tiles.h), in memory that the ranks of
 * a node share, and uploaded in one go.
 *
 * If a kernel finds bad contents (an id without a row), it reports them in memory that device_wait reads.
 */
#include <stdio.h>
#include <string.h>

#include "kernels/cuda.h"
extern "C" {
#include "base/memory.h"
#include "base/pool.h"
#include "device/gpu.h"
#include "device/kinds.h"
}
#include "device/tiles.h"

struct gpu {
    struct cuda cuda; /* must be first: the device is known by its head */
    struct pool *pool;
    struct bad_content *found; /* on the host, pinned */
};

struct error cuda_error(cudaError_t code, const char *call)
{
    if (code == cudaSuccess)
        return ok();
    if (code == cudaErrorMemoryAllocation && strcmp(call, "cudaMalloc") == 0)
        return error_failed(
            "%s: out of GPU memory; use fewer or smaller pictures at once, or 4-bit weights (quant.bits, "
            "zoodip quantize)",
            call);
    return error_failed("%s: %s (%s)", call, cudaGetErrorString(code), cudaGetErrorName(code));
}

static struct gpu *gpu_of(struct device *device)
{
    return (struct gpu *)device;
}

/* -------------------------------------------------------------------------------- memory, copies */

static void free_memory(struct device *device, void *memory)
{
    nccl_wait(device);
    cudaStreamSynchronize(cuda_of(device)->stream); // work that uses it may still be running
    cudaFree(memory);
}

static struct error alloc_memory(struct device *device, int64_t bytes, void **memory)
{
    TRY(cuda_error(cudaMalloc(memory, (size_t)bytes), "cudaMalloc"));
    cudaError_t code = cudaMemsetAsync(*memory, 0, (size_t)bytes, cuda_of(device)->stream);
    if (code == cudaSuccess)
        return ok();
    free_memory(device, *memory);
    *memory = NULL;
    return cuda_error(code, "cudaMemsetAsync");
}

static struct error alloc_host(struct device *device, int64_t bytes, void **memory)
{
    (void)device;
    TRY(cuda_error(cudaMallocHost(memory, (size_t)bytes), "cudaMallocHost"));
    memset(*memory, 0, (size_t)bytes);
    return ok();
}

static void free_host(struct device *device, void *memory)
{
    (void)device;
    cudaFreeHost(memory);
}

static struct error count_memory(struct device *device, int64_t *left, int64_t *used)
{
    (void)device;
    size_t free_bytes, all;
    TRY(cuda_error(cudaMemGetInfo(&free_bytes, &all), "cudaMemGetInfo"));
    *left = (int64_t)free_bytes;
    *used = (int64_t)(all - free_bytes);
    return ok();
}

static struct error upload(struct device *device, void *to, const void *from, int64_t bytes)
{
    cudaStream_t stream = cuda_of(device)->stream;
    TRY(nccl_wait(device));
    TRY(cuda_error(cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync"));
    return cuda_error(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

/* A tensor's rows <-> dense host memory. If lanes share memory, each is written to it in turn, and the last one
 * stays. */
static void copy_rows(struct device *device, struct tensor t, void *dense, bool into_tensor)
{
    size_t size = (size_t)dtype_size(t.type), row = (size_t)t.channels * size, pitch = (size_t)t.row_stride * size;
    size_t rows = (size_t)(t.height * t.width);
    bool whole = pitch == row && t.lane_stride == (int64_t)rows * t.channels;
    // a copy from or to unpinned memory waits for the stream itself, without a limit
    struct error e = nccl_wait(device);
    if (e.code != ERROR_NONE)
        return device_fail(device, e);
    if (whole) { // one long row
        row *= rows * (size_t)t.lanes;
        pitch = row;
        rows = 1;
    }
    for (int64_t lane = 0; lane < (whole ? 1 : t.lanes); lane++) {
        char *at = (char *)tensor_data(t) + (size_t)(lane * t.lane_stride) * size;
        char *host = (char *)dense + (size_t)lane * rows * row;
        cudaError_t code =
            into_tensor
                ? cudaMemcpy2DAsync(at, pitch, host, row, row, rows, cudaMemcpyHostToDevice, cuda_of(device)->stream)
                : cudaMemcpy2DAsync(host, row, at, pitch, row, rows, cudaMemcpyDeviceToHost, cuda_of(device)->stream);
        if (code != cudaSuccess)
            device_fail(device, cuda_error(code, "cudaMemcpy2DAsync"));
    }
}

static void write_tensor(struct device *device, struct tensor to, const void *from)
{
    copy_rows(device, to, (void *)from, true);
}

static void read_tensor(struct device *device, void *to, struct tensor from)
{
    copy_rows(device, from, to, false);
}

static struct error bad_content_error(struct bad_content c)
{
    if (c.error == BAD_ID)
        return error_failed("op_embed: token id %d has no row", c.value);
    if (c.error == BAD_CHOICE)
        return error_failed("a step chose picture, timestep or direction %d, which does not exist", c.value);
    if (c.error == BAD_PRIMAL)
        return error_failed("a tangent of lane %d, which is not primal", c.value);
    return error_failed("a map names lane %d, which does not exist", c.value);
}

static struct error wait_for_stream(struct device *device)
{
    struct gpu *g = gpu_of(device);
    cudaStream_t stream = g->cuda.stream;
    TRY(nccl_wait(device));
    TRY(nccl_alive(device));
    TRY(cuda_error(cudaMemcpyAsync(g->found, g->cuda.bad_content, sizeof *g->found, cudaMemcpyDeviceToHost, stream),
                   "cudaMemcpyAsync"));
    TRY(cuda_error(cudaStreamSynchronize(stream), "cudaStreamSynchronize"));
    if (g->found->error == CONTENT_OK)
        return ok();
    TRY(cuda_error(cudaMemsetAsync(g->cuda.bad_content, 0, sizeof *g->found, stream), "cudaMemsetAsync"));
    return bad_content_error(*g->found);
}

/* -------------------------------------------------------------------------------- weights */

static int64_t place_weight(const struct device *device, struct weight *w, char *at)
{
    w->bfloat = ((const struct cuda *)device)->operand == BFLOAT;
    return tile_place(w, at);
}

struct packing {
    const struct weight *weight;
    const struct weight_source *source;
    char *scratch;
    int64_t scratch_bytes;
};

static void pack_row(void *arg, int64_t row, int thread)
{
    const struct packing *p = (const struct packing *)arg;
    tile_pack_row(p->weight, p->source, row, p->scratch + thread * p->scratch_bytes);
}

static struct error pack_weight(struct device *device, const struct weight *w, const struct weight_source *source)
{
    struct pool *pool = gpu_of(device)->pool;
    struct packing p = {w, source, NULL, tile_scratch(w)};
    p.scratch = (char *)memory_alloc(pool_threads(pool), p.scratch_bytes);
    if (!p.scratch)
        return error_memory("packing a weight");
    pool_run(pool, tile_layout_of(w).rows, pack_row, &p);
    memory_free(p.scratch);
    return ok();
}

static struct error set_activations(struct device *device, bool bfloat)
{
    if (bfloat && cuda_of(device)->capability < 80)
        return error_input("%s: has no bfloat16; it needs compute capability 8.0 or newer", device->name);
    cuda_of(device)->operand = bfloat ? BFLOAT : HALF;
    return ok();
}

/* -------------------------------------------------------------------------------- opening */

static void close_device(struct device *device)
{
    struct gpu *g = gpu_of(device);
    nccl_leave(device);
    device_memory_free(device, MEMORY_SCRATCH, g->cuda.moments, GPU_SCRATCH);
    if (g->found)
        cudaFreeHost(g->found);
    if (g->cuda.stream)
        cudaStreamDestroy(g->cuda.stream);
    pool_close(g->pool);
    memory_free(g);
}

static const struct device_ops *table()
{
    static struct device_ops ops;
    ops.close = close_device;
    ops.wait = wait_for_stream;
    ops.alloc = alloc_memory;
    ops.free = free_memory;
    ops.alloc_host = alloc_host;
    ops.free_host = free_host;
    ops.memory_left = count_memory;
    ops.upload = upload;
    ops.run = cuda_run;
    ops.free_compiled = cuda_free_compiled;
    ops.set_activations = set_activations;
    ops.code_blocks = gpu_code_blocks;
    ops.product_work = gpu_product_work;
    ops.attention_work = gpu_attention_work;
    ops.weight_place = place_weight;
    ops.weight_pack = pack_weight;
    ops.write = write_tensor;
    ops.read = read_tensor;
    ops.channel_rms = cuda_channel_rms;
    ops.linear = cuda_linear;
    ops.conv = cuda_conv;
    ops.norm = cuda_norm;
    ops.attention = cuda_attention;
    ops.copy = cuda_copy;
    ops.embed = cuda_embed;
    ops.timestep = cuda_timestep;
    ops.loss = cuda_loss;
    ops.draw = cuda_draw;
    ops.add_noise = cuda_add_noise;
    ops.perturb = cuda_perturb;
    ops.mix = cuda_mix;
    ops.update = cuda_update;
    nccl_offer(&ops);
    return &ops;
}

/* Is there a recent enough driver, with a visible GPU? */
static struct error find_gpus(int *count)
{
    cudaError_t code = cudaGetDeviceCount(count);
    if (code == cudaErrorNoDevice || (code == cudaSuccess && *count == 0))
        return error_input("no GPU is visible to CUDA; is CUDA_VISIBLE_DEVICES right?");
    if (code == cudaErrorInsufficientDriver) {
        int driver = 0, runtime = 0;
        cudaDriverGetVersion(&driver);
        cudaRuntimeGetVersion(&runtime);
        if (driver == 0)
            return error_input("no NVIDIA driver answers");
        return error_input("the NVIDIA driver supports CUDA %d.%d, but this zoodip needs %d.%d; update the driver",
                           driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    return cuda_error(code, "cudaGetDeviceCount");
}

/* FNV-1a over the GPU's UUID, cut to what a double holds. */
static int64_t identity_of(const struct cudaDeviceProp *about)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof about->uuid.bytes; i++)
        hash = (hash ^ (unsigned char)about->uuid.bytes[i]) * 0x100000001b3u;
    return (int64_t)(hash >> 11) | 1;
}

static struct error open_parts(struct gpu *g, int threads)
{
    struct cuda *c = &g->cuda;
    int major, minor;
    TRY(cuda_error(cudaSetDevice(c->index), "cudaSetDevice"));
    TRY(cuda_error(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, c->index),
                   "cudaDeviceGetAttribute"));
    TRY(cuda_error(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, c->index),
                   "cudaDeviceGetAttribute"));
    TRY(cuda_error(cudaDeviceGetAttribute(&c->processors, cudaDevAttrMultiProcessorCount, c->index),
                   "cudaDeviceGetAttribute"));
    c->capability = major * 10 + minor;
    if (c->capability < 75)
        return error_input("GPU %d has compute capability %d.%d; expected 7.5 or newer", c->index, major, minor);
    struct cudaDeviceProp about;
    TRY(cuda_error(cudaGetDeviceProperties(&about, c->index), "cudaGetDeviceProperties"));
    snprintf(c->device.name, sizeof c->device.name, "cuda (GPU %d, %.60s)", c->index, about.name);
    snprintf(c->device.model, sizeof c->device.model, "%.70s", about.name);
    c->device.identity = identity_of(&about);
    TRY(cuda_error(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"));
    TRY(device_memory_alloc(&c->device, MEMORY_SCRATCH, GPU_SCRATCH, (void **)&c->moments));
    c->bad_content = (struct bad_content *)(c->moments + MOMENTS);
    c->parts = (float4 *)((char *)c->bad_content + GPU_CONTENT);
    c->arrived = (unsigned *)((char *)c->parts + GPU_PARTS);
    TRY(cuda_error(cudaMallocHost((void **)&g->found, sizeof *g->found), "cudaMallocHost"));
    return pool_open(&g->pool, threads);
}

struct error cuda_open(struct device **device, int index, int threads)
{
    int count;
    TRY(find_gpus(&count));
    struct gpu *g = (struct gpu *)memory_alloc(1, sizeof *g);
    if (!g)
        return error_memory("the device");
    g->cuda.device.ops = table();
    g->cuda.index = index % count;
    gpu_describe_codes(&g->cuda.device);
    struct error e = open_parts(g, threads);
    if (e.code != ERROR_NONE) {
        close_device(&g->cuda.device);
        return e;
    }
    *device = &g->cuda.device;
    return ok();
}

const char *cuda_libraries(void)
{
    static char text[96];
    int version = 0;
    cudaRuntimeGetVersion(&version);
    snprintf(text, sizeof text, "NCCL: %s\nCUDA: %d.%d\n", nccl_version(), version / 1000, version % 1000 / 10);
    return text;
}
