/* The device itself: which kind is opened, its first error, its memory as it is counted, and its link to the devices of
 * other ranks. Weights, programs and ops are in weight.c, program.c and ops.c. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "device/backend.h"

struct error device_open(struct device **device, const struct device_kind *kinds, const char *name, int index,
                         int threads)
{
    bool any = strcmp(name, "auto") == 0;
    struct error e = error_input("\"%.60s\": expected auto, cpu or cuda", name);
    for (const struct device_kind *kind = kinds; kind->name; kind++) {
        if (!any && strcmp(name, kind->name) != 0)
            continue;
        struct error mine = kind->open(device, index, threads);
        if (mine.code == ERROR_NONE && kind != kinds && any)
            snprintf((*device)->note, sizeof(*device)->note, "computing on the CPU: %s", e.text);
        if (mine.code == ERROR_NONE || !any)
            return mine;
        e = mine;
    }
    return e;
}

void device_close(struct device *d)
{
    if (!d)
        return;
    device_memory_free(d, MEMORY_ACTIVATIONS, d->arena.memory, d->arena.bytes);
    memory_free(d->products);
    memory_free(d->outliers);
    d->ops->close(d);
}

struct error device_alloc_host(struct device *d, int64_t bytes, void **memory)
{
    if (d->ops->alloc_host)
        return d->ops->alloc_host(d, bytes, memory);
    *memory = memory_alloc(1, bytes);
    return *memory ? ok() : error_memory("what the host and the device exchange");
}

void device_free_host(struct device *d, void *memory)
{
    if (d->ops->free_host)
        d->ops->free_host(d, memory);
    else
        memory_free(memory);
}

const char *device_name(const struct device *d)
{
    return d->name;
}

const char *device_model(const struct device *d)
{
    return d->model;
}

const char *device_note(const struct device *d)
{
    return d->note;
}

int64_t device_identity(const struct device *d)
{
    return d->identity;
}

void device_set_tangents(struct device *d, int bits)
{
    d->tangent_bits = bits;
    if (d->ops->set_tangents)
        d->ops->set_tangents(d, bits);
}

bool device_tangents_pay(const struct device *d, int bits, int weight_bits, int64_t channels)
{
    if (d->has_halves)
        return bits <= 16;
    return bits == 8 && weight_bits == 8 && d->tangents_pay_from > 0 && channels >= d->tangents_pay_from;
}

void device_use_codes(struct device *d, int families)
{
    int none = CODES_ALL & ~families;
    d->generation += d->no_codes != none;
    d->no_codes = none;
}

int device_tangents(const struct device *d)
{
    return d->tangent_bits;
}

bool device_has_codes(const struct device *d)
{
    return d->code_families;
}

int device_code_families(const struct device *d)
{
    return d->code_families;
}

bool device_has_halves(const struct device *d)
{
    return d->has_halves;
}

struct error device_set_activations(struct device *d, bool bfloat)
{
    return d->ops->set_activations ? d->ops->set_activations(d, bfloat) : ok();
}

void device_fail(struct device *d, struct error e)
{
    if (d->error.code == ERROR_NONE)
        d->error = e;
}

struct error device_wait(struct device *d)
{
    device_fail(d, d->ops->wait(d));
    struct error e = d->error;
    d->error = ok();
    return e;
}

/* -------------------------------------------------------------------------------- memory */

struct error device_memory_alloc(struct device *d, enum memory_kind kind, int64_t bytes, void **memory)
{
    struct memory_use *u = &d->use;
    TRY(d->ops->alloc(d, bytes, memory));
    u->now[kind] += bytes;
    u->total += bytes;
    if (u->total > u->most) {
        u->most = u->total;
        memcpy(u->peak, u->now, sizeof u->peak);
    }
    return ok();
}

void device_memory_free(struct device *d, enum memory_kind kind, void *memory, int64_t bytes)
{
    if (!memory)
        return;
    d->ops->free(d, memory);
    d->use.now[kind] -= bytes;
    d->use.total -= bytes;
}

struct memory_use device_memory(const struct device *d)
{
    return d->use;
}

void device_memory_reset_peak(struct device *d)
{
    struct memory_use *u = &d->use;
    u->most = u->total;
    memcpy(u->peak, u->now, sizeof u->peak);
}

struct error device_memory_left(struct device *d, int64_t *left, int64_t *used)
{
    *left = INT64_MAX;
    *used = 0;
    return d->ops->memory_left ? d->ops->memory_left(d, left, used) : ok();
}

/* -------------------------------------------------------------------------------- other ranks */

bool device_can_join(const struct device *d)
{
    return d->ops->join;
}

bool device_joined(const struct device *d)
{
    return d->joined;
}

const char *device_joined_by(const struct device *d)
{
    return d->joined ? d->joined_by : "";
}

struct error device_join(struct device *d, const struct device_link *link)
{
    if (!d->ops->join)
        return error_failed("%s: cannot be joined with the devices of other ranks", d->name);
    TRY(device_wait(d));
    TRY(d->ops->join(d, link));
    d->joined = true;
    return ok();
}
