/* The simulated CUDA device: it counts memory and computes nothing. */
#include <stdio.h>

#include "base/memory.h"
#include "device/backend.h"
#include "device/gpu.h"
#include "device/tiles.h"

struct simulated {
    struct device device;
    struct device_ops ops;
    bool bfloat;
};

static struct error set_activations(struct device *d, bool bfloat)
{
    ((struct simulated *)d)->bfloat = bfloat;
    return ok();
}

static void close_device(struct device *d)
{
    memory_free(d);
}

static struct error wait_for_stream(struct device *d)
{
    (void)d;
    return ok();
}

/* An address that is never read. */
static struct error alloc_memory(struct device *d, int64_t bytes, void **at)
{
    (void)bytes;
    *at = d;
    return ok();
}

static void free_memory(struct device *d, void *at)
{
    (void)d;
    (void)at;
}

static struct error upload(struct device *d, void *to, const void *from, int64_t bytes)
{
    (void)d;
    (void)to;
    (void)from;
    (void)bytes;
    return ok();
}

static struct error run(struct program *p)
{
    (void)p;
    return ok();
}

static int64_t place_weight(const struct device *d, struct weight *w, char *at)
{
    w->bfloat = ((const struct simulated *)d)->bfloat;
    return tile_place(w, at);
}

static void write_tensor(struct device *d, struct tensor to, const void *from)
{
    (void)d;
    (void)to;
    (void)from;
}

static void read_tensor(struct device *d, void *to, struct tensor from)
{
    (void)d;
    (void)to;
    (void)from;
}

struct error device_simulate(struct device **device, bool of_cpu)
{
    struct simulated *simulated = memory_alloc(1, sizeof *simulated);
    if (!simulated)
        return error_memory("a plan");
    simulated->ops = (struct device_ops){
        .code_blocks = of_cpu ? cpu_code_blocks : gpu_code_blocks,
        .product_work = of_cpu ? NULL : gpu_product_work,
        .attention_work = of_cpu ? NULL : gpu_attention_work,
        .close = close_device,
        .wait = wait_for_stream,
        .alloc = alloc_memory,
        .free = free_memory,
        .upload = upload,
        .run = run,
        .set_activations = set_activations,
        .weight_place = place_weight,
        .write = write_tensor,
        .read = read_tensor,
    };
    struct device *d = &simulated->device;
    d->ops = &simulated->ops;
    if (of_cpu)
        cpu_describe_codes(d);
    else
        gpu_describe_codes(d);
    snprintf(d->name, sizeof d->name, "a GPU, planned");
    void *scratch;
    *device = d;
    return device_memory_alloc(d, MEMORY_SCRATCH, GPU_SCRATCH, &scratch);
}
