#include "zo/step_block.h"

#include "base/dtype.h"

static int64_t bytes_of(struct tensor t)
{
    return t.lanes * t.lane_stride * dtype_size(t.type);
}

/* Where the next part begins: as memory of a device's own does, at a multiple of 128. */
static int64_t end_of(struct tensor t)
{
    enum { ALIGN = 128 };
    return (t.offset + bytes_of(t) + ALIGN - 1) / ALIGN * ALIGN;
}

struct error step_block_new(struct step_block *b, struct device *device, const struct block_part *parts, int64_t count)
{
    *b = (struct step_block){.device = device};
    int64_t bytes = 0;
    for (int64_t i = 0; i < count; i++) {
        const struct block_part *p = &parts[i];
        *p->tensor = tensor_within((struct tensor){0}, bytes, p->type, p->lanes, p->height, p->width, p->channels);
        bytes = end_of(*p->tensor);
    }
    TRY(device_alloc_state(device, U8, 1, 1, 1, bytes, &b->bytes));
    for (int64_t i = 0; i < count; i++)
        parts[i].tensor->base = b->bytes.base;
    return device_alloc_host(device, bytes, (void **)&b->host);
}

void step_block_free(struct step_block *b)
{
    if (!b->device)
        return;
    device_free_state(b->device, &b->bytes); // waits for copies from and to the host
    device_free_host(b->device, b->host);
    *b = (struct step_block){0};
}

void *step_block_at(const struct step_block *b, struct tensor t)
{
    return b->host + t.offset;
}

/* The bytes from a tensor's first to another's last. */
static struct tensor from_to(const struct step_block *b, struct tensor first, struct tensor last)
{
    return tensor_channels(b->bytes, first.offset, last.offset + bytes_of(last) - first.offset);
}

void step_block_write(const struct step_block *b, struct tensor first, struct tensor last)
{
    device_write(b->device, from_to(b, first, last), step_block_at(b, first));
}

void step_block_read(const struct step_block *b, struct tensor first, struct tensor last)
{
    device_read(b->device, step_block_at(b, first), from_to(b, first, last));
}
