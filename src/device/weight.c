/* Weights: in which type each is kept, their places in the store, their upload to a GPU, and the rows of a table that a
 * GPU holds. Each device lays out the numbers in its own way (weight_place, weight_pack). */
#include <string.h>

#include "base/memory.h"
#include "device/backend.h"
#include "device/quantize.h"

void device_store_begin(struct device *d, void *memory, int64_t bytes, bool fill)
{
    d->store = memory;
    d->store_bytes = bytes;
    d->store_used = 0;
    d->fill = fill;
}

int64_t device_store_bytes(const struct device *d)
{
    return d->store_used;
}

static enum dtype kept_type_of_one(const struct weight_source *s, int bits)
{
    if (s->table)
        return s->type;
    if (s->in == 0 || bits == 32)
        return F32;
    if (bits == 8)
        return I8;
    if (bits == 4)
        return quantize_cycles(s->out, s->in * s->kh * s->kw) ? F32 : U8;
    return s->type == BF16 || (s->scale && s->scale_type == BF16) ? BF16 : F16;
}

/* Joined sources that would be kept in different types are kept as floats. */
static enum dtype kept_type(const struct weight_source *s, int bits)
{
    enum dtype type = kept_type_of_one(s, bits);
    while ((s = s->next))
        if (kept_type_of_one(s, bits) != type)
            return F32;
    return type;
}

static int64_t outputs_of(const struct weight_source *s)
{
    int64_t out = 0;
    for (; s; s = s->next)
        out += s->out;
    return out;
}

/* May a source be kept in `bits`? */
static struct error check_bits(const struct weight_source *s, int bits)
{
    int codes = s->type == I8 ? 8 : s->type == U8 ? 4 : 0;
    if (bits != 32 && bits != 16 && bits != 8 && bits != 4)
        return error_failed("weights are kept in 32, 16, 8 or 4 bits, not %d", bits);
    if (codes && bits < 16 && bits != codes)
        return error_input("is already quantized to %d bits; %d bits need an unquantized model", codes, bits);
    return ok();
}

/* A norm's gain and shift are floats on every device. */
static void pack_norm(const struct weight *w, const struct weight_source *s)
{
    dtype_to_float((float *)w->data, s->data, s->type, w->out);
    if (w->bias)
        dtype_to_float((float *)w->bias, s->bias, s->bias_type, w->out);
}

struct error weight_new(struct device *d, const struct weight_source *s, int bits, struct weight **weight)
{
    for (const struct weight_source *part = s; part; part = part->next)
        TRY(check_bits(part, bits));
    if (s->out < 1 || s->in < 0 || s->kh < 1 || s->kw < 1 || (s->gated && s->out % 2 != 0))
        return error_failed("a weight of a shape that no layer has");
    struct weight *w = memory_alloc(1, sizeof *w);
    if (!w)
        return error_memory("a weight's handle");
    *w = (struct weight){.out = outputs_of(s),
                         .in = s->in,
                         .kh = s->kh,
                         .kw = s->kw,
                         .gated = s->gated,
                         .table = s->table,
                         .norm = s->in == 0,
                         .type = kept_type(s, bits),
                         .has_bias = s->bias};
    w->group = w->type == U8 ? quantize_group(s->in * s->kh * s->kw) : 0;
    struct error e = ok();
    if (s->table) {
        w->data = s->data;
    } else {
        int64_t bytes = d->ops->weight_place(d, w, d->store ? d->store + d->store_used : NULL);
        if (d->store && d->store_used + bytes > d->store_bytes)
            e = error_failed("the store of weights is too small");
        else if (d->store && d->fill && w->norm)
            pack_norm(w, s);
        else if (d->store && d->fill)
            e = d->ops->weight_pack(d, w, s);
        d->store_used += bytes;
    }
    if (e.code != ERROR_NONE) {
        memory_free(w);
        return e;
    }
    *weight = w;
    return ok();
}

void weight_free(struct weight *w)
{
    if (!w)
        return;
    if (w->device)
        device_memory_free(w->device, MEMORY_WEIGHTS, w->resident, w->resident_bytes);
    memory_free(w->host_place);
    memory_free(w);
}

/* Assigns the next free place to every id that has none yet; returns how many have one now. */
static int64_t assign_places(struct weight *w, const int32_t *ids, int64_t count)
{
    int64_t rows = w->resident_rows;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] >= 0 && ids[i] < w->out && w->host_place[ids[i]] < 0)
            w->host_place[ids[i]] = (int32_t)rows++;
    return rows;
}

/* Places and rows as they will be on the device. */
static void fill_rows(const struct weight *w, char *memory, int64_t places)
{
    memcpy(memory, w->host_place, (size_t)w->out * sizeof *w->host_place);
    for (int64_t i = 0; i < w->out; i++)
        if (w->host_place[i] >= 0)
            dtype_to_float((float *)(memory + places) + w->host_place[i] * w->in,
                           (const char *)w->data + i * w->in * dtype_size(w->type), w->type, w->in);
}

/* After this the table has no rows on the device. */
static void free_rows(struct device *d, struct weight *w)
{
    device_memory_free(d, MEMORY_WEIGHTS, w->resident, w->resident_bytes);
    memset(w->host_place, 0xff, (size_t)w->out * sizeof *w->host_place);
    w->resident = NULL;
    w->resident_rows = w->resident_bytes = 0;
    w->place = NULL;
    w->rows = NULL;
    d->generation++;
}

/* Uploads all `rows` that have a place into new memory, which replaces the previous. */
static struct error upload_rows(struct device *d, struct weight *w, int64_t rows)
{
    enum { ALIGN = 128 };
    int64_t places = round_up(w->out * (int64_t)sizeof *w->host_place, ALIGN);
    int64_t bytes = places + rows * w->in * (int64_t)sizeof(float);
    char *memory = memory_alloc(bytes, 1);
    if (!memory)
        return error_memory("a table's rows");
    fill_rows(w, memory, places);
    device_memory_free(d, MEMORY_WEIGHTS, w->resident, w->resident_bytes);
    w->resident = NULL;
    d->generation++;
    struct error e = device_memory_alloc(d, MEMORY_WEIGHTS, bytes, &w->resident);
    if (e.code == ERROR_NONE) {
        w->resident_bytes = bytes;
        e = d->ops->upload(d, w->resident, memory, bytes);
    }
    memory_free(memory);
    TRY(e);
    w->resident_rows = rows;
    w->place = w->resident;
    w->rows = (const float *)((const char *)w->resident + places);
    return ok();
}

struct error device_upload_rows(struct device *d, struct weight *w, const int32_t *ids, int64_t count)
{
    if (!d->ops->upload)
        return ok();
    if (!w->host_place) {
        w->host_place = memory_alloc(w->out, sizeof *w->host_place);
        if (!w->host_place)
            return error_memory("a table's places");
        memset(w->host_place, 0xff, (size_t)w->out * sizeof *w->host_place);
        w->device = d;
    }
    int64_t rows = assign_places(w, ids, count);
    if (rows == w->resident_rows)
        return ok();
    struct error e = upload_rows(d, w, rows);
    if (e.code != ERROR_NONE)
        free_rows(d, w);
    return e;
}

static const void *relocated(const void *at, const char *from, const char *to)
{
    return at ? to + ((const char *)at - from) : NULL;
}

struct error device_upload(struct device *d, struct weight **weights, int64_t count, const void *memory, int64_t bytes,
                           void **uploaded)
{
    *uploaded = NULL;
    if (!d->ops->upload || bytes == 0)
        return ok();
    TRY(device_memory_alloc(d, MEMORY_WEIGHTS, bytes, uploaded));
    struct error e = d->ops->upload(d, *uploaded, memory, bytes);
    if (e.code != ERROR_NONE) {
        device_upload_free(d, *uploaded, bytes);
        *uploaded = NULL;
        return e;
    }
    for (int64_t i = 0; i < count; i++) {
        struct weight *w = weights[i];
        if (w->table)
            continue;
        w->data = relocated(w->data, memory, *uploaded);
        w->scale = relocated(w->scale, memory, *uploaded);
        w->bias = relocated(w->bias, memory, *uploaded);
        w->groups = relocated(w->groups, memory, *uploaded);
    }
    return ok();
}

void device_upload_free(struct device *d, void *uploaded, int64_t bytes)
{
    device_memory_free(d, MEMORY_WEIGHTS, uploaded, bytes);
}
