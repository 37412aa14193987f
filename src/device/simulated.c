/* The simulated CUDA device: it counts memory and computes nothing. */
#include <stdio.h>

#include "base/memory.h"
#include "device/backend.h"
#include "device/tiles.h"

struct simulated {
    struct device device;
    bool bfloat;
};

static struct error set_activations(struct device *d, bool bfloat)
{
    ((struct simulated *)d)->bfloat = bfloat;
    return ok();
}

static void close_plan(struct device *d)
{
    memory_free(d);
}

static struct error wait(struct device *d)
{
    (void)d;
    return ok();
}

/* An address that is never read. */
static struct error memory(struct device *d, int64_t bytes, void **at)
{
    (void)bytes;
    *at = d;
    return ok();
}

static void give(struct device *d, void *at)
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

static int64_t place(const struct device *d, struct weight *w, char *at)
{
    w->bfloat = ((const struct simulated *)d)->bfloat;
    return tile_place(w, at);
}

static void write(struct device *d, struct tensor to, const void *from)
{
    (void)d;
    (void)to;
    (void)from;
}

static void read(struct device *d, void *to, struct tensor from)
{
    (void)d;
    (void)to;
    (void)from;
}

struct error device_simulate(struct device **device)
{
    static const struct device_ops ops = {
        .close = close_plan,
        .wait = wait,
        .memory = memory,
        .memory_free = give,
        .upload = upload,
        .run = run,
        .set_activations = set_activations,
        .weight_place = place,
        .write = write,
        .read = read,
    };
    struct simulated *simulated = memory_alloc(1, sizeof *simulated);
    if (!simulated)
        return error_memory("a plan");
    struct device *d = &simulated->device;
    d->ops = &ops;
    snprintf(d->name, sizeof d->name, "a GPU, planned");
    void *scratch;
    *device = d;
    return device_memory_alloc(d, MEMORY_SCRATCH, GPU_SCRATCH, &scratch);
}
