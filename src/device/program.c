/* Tensors and programs: tensors of state, with memory of their own, and the arena, where a dry pass finds a place for
 * every tensor of a program's body (device/layout.c). */
#include <stddef.h>

#include "base/memory.h"
#include "device/backend.h"

static struct tensor dense(struct buffer *base, int64_t offset, enum dtype type, int64_t lanes, int64_t height,
                           int64_t width, int64_t channels)
{
    return (struct tensor){.base = base,
                           .offset = offset,
                           .type = type,
                           .lanes = lanes,
                           .height = height,
                           .width = width,
                           .channels = channels,
                           .lane_stride = height * width * channels,
                           .row_stride = channels};
}

/* Bytes of a dense tensor, or -1 if a size is not positive or the product overflows. */
static int64_t dense_bytes(enum dtype type, int64_t lanes, int64_t height, int64_t width, int64_t channels)
{
    int64_t bytes = dtype_size(type);
    const int64_t sizes[] = {lanes, height, width, channels};
    for (int i = 0; i < 4; i++)
        if (sizes[i] < 1 || __builtin_mul_overflow(bytes, sizes[i], &bytes))
            return -1;
    return bytes;
}

struct error device_alloc_state(struct device *d, enum dtype type, int64_t lanes, int64_t height, int64_t width,
                                int64_t channels, struct tensor *tensor)
{
    int64_t bytes = dense_bytes(type, lanes, height, width, channels);
    if (bytes < 0)
        return error_failed("a tensor of an impossible shape");
    struct buffer *b = memory_alloc(1, sizeof *b);
    if (!b)
        return error_memory("a tensor");
    b->bytes = bytes;
    struct error e = device_memory_alloc(d, MEMORY_STATE, bytes, &b->memory);
    if (e.code != ERROR_NONE) {
        memory_free(b);
        return e;
    }
    *tensor = dense(b, 0, type, lanes, height, width, channels);
    return ok();
}

void device_free_state(struct device *d, struct tensor *t)
{
    if (t->base) {
        device_memory_free(d, MEMORY_STATE, t->base->memory, t->base->bytes);
        memory_free(t->base);
    }
    *t = (struct tensor){0};
}

struct tensor tensor_within(struct tensor bytes, int64_t offset, enum dtype type, int64_t lanes, int64_t height,
                            int64_t width, int64_t channels)
{
    return dense(bytes.base, bytes.offset + offset, type, lanes, height, width, channels);
}

struct tensor tensor_channels(struct tensor x, int64_t first, int64_t count)
{
    x.offset += first * dtype_size(x.type);
    x.channels = count;
    return x;
}

struct tensor tensor_piece(struct tensor x, int64_t first, int64_t count)
{
    x.offset += first * x.row_stride * dtype_size(x.type);
    x.height = 1;
    x.width = count;
    return x;
}

struct tensor tensor_lanes(struct tensor x, int64_t first, int64_t count)
{
    x.offset += first * x.lane_stride * dtype_size(x.type);
    x.lanes = count;
    return x;
}

/* -------------------------------------------------------------------------------- arena and programs */

/* In a dry pass a tensor has no place yet: its offset is its number in the list of spans times this, so that views of
 * its channels cannot reach the next tensor's. */
static const int64_t DRY_STRIDE = (int64_t)1 << 40;

/* The place of the program's next tensor: recorded in the dry pass, looked up in a run. */
static int64_t next_offset(struct device *d, int64_t bytes)
{
    struct program *p = d->program;
    if (!d->dry) {
        if (d->cursor < p->span_count && p->spans[d->cursor].bytes == bytes)
            return p->spans[d->cursor++].offset;
        device_fail(d, error_failed("a program took different tensors than in its dry pass"));
        return -1;
    }
    struct span *more = memory_grow(p->spans, p->span_count, &p->span_room, sizeof *more);
    if (!more) {
        device_fail(d, error_memory("a program's plan"));
        return -1;
    }
    p->spans = more;
    p->spans[p->span_count] = (struct span){0, bytes, d->clock++, INT64_MAX};
    return DRY_STRIDE * p->span_count++;
}

struct tensor device_alloc(struct device *d, enum dtype type, int64_t lanes, int64_t height, int64_t width,
                           int64_t channels)
{
    enum { ALIGN = 128 };
    int64_t bytes = dense_bytes(type, lanes, height, width, channels), offset = -1;
    if (!d->program)
        device_fail(d, error_failed("a tensor was taken outside a program"));
    else if (bytes < 0)
        device_fail(d, error_failed("a tensor of an impossible shape was taken"));
    else
        offset = next_offset(d, round_up(bytes, ALIGN));
    // without a place it has no base, and every op refuses it
    return dense(offset < 0 ? NULL : &d->arena, offset, type, lanes, height, width, channels);
}

void device_free(struct device *d, struct tensor *t)
{
    if (d->dry && t->base == &d->arena)
        d->program->spans[t->offset / DRY_STRIDE].freed = d->clock++;
    *t = (struct tensor){0};
}

static struct error run_body(struct program *p, bool dry)
{
    struct device *d = p->device;
    if (d->program)
        return error_failed("a program was started inside another");
    d->program = p;
    d->dry = dry;
    d->cursor = 0;
    d->clock = 0;
    struct error e = p->body(p->arg);
    d->program = NULL;
    d->dry = false;
    d->tangents = (struct tangents){0};
    return e;
}

static struct error grow_arena(struct device *d, int64_t bytes)
{
    if (bytes <= d->arena.bytes)
        return ok();
    device_memory_free(d, MEMORY_ACTIVATIONS, d->arena.memory, d->arena.bytes);
    d->arena = (struct buffer){0};
    d->generation++;
    TRY(device_memory_alloc(d, MEMORY_ACTIVATIONS, bytes, &d->arena.memory));
    d->arena.bytes = bytes;
    return ok();
}

struct error program_new(struct device *d, struct error (*body)(void *arg), void *arg, struct program **program)
{
    TRY(device_wait(d));
    struct program *p = memory_alloc(1, sizeof *p);
    if (!p)
        return error_memory("a program");
    *p = (struct program){.device = d, .body = body, .arg = arg};
    d->programs++;
    struct error e = run_body(p, true);
    if (e.code == ERROR_NONE)
        e = d->error;
    d->error = ok();
    if (e.code == ERROR_NONE)
        e = layout_make(p);
    if (e.code == ERROR_NONE)
        e = grow_arena(d, p->bytes);
    if (e.code != ERROR_NONE) {
        program_free(p);
        return e;
    }
    *program = p;
    return ok();
}

struct error program_run(struct program *p)
{
    if (p->bytes > p->device->arena.bytes)
        return error_failed("the arena is gone");
    return p->device->ops->run ? p->device->ops->run(p) : program_pass(p);
}

struct error program_pass(struct program *p)
{
    return run_body(p, false);
}

void program_free(struct program *p)
{
    if (!p)
        return;
    struct device *d = p->device;
    if (--d->programs == 0) { // what comes next may need far less: pictures are encoded before the UNet is loaded
        device_memory_free(d, MEMORY_ACTIVATIONS, d->arena.memory, d->arena.bytes);
        d->arena = (struct buffer){0};
    }
    if (d->ops->free_compiled)
        d->ops->free_compiled(p);
    memory_free(p->spans);
    memory_free(p);
}

int64_t program_bytes(const struct program *p)
{
    return p->bytes;
}
