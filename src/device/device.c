#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "device/backend.h"
#include "device/quantize.h"

/* -------------------------------------------------------------------------------- device */

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
    d->ops->close(d);
}

const char *device_name(const struct device *d)
{
    return d->name;
}

const char *device_note(const struct device *d)
{
    return d->note;
}

int64_t device_identity(const struct device *d)
{
    return d->identity;
}

struct error device_activations(struct device *d, bool bfloat)
{
    return d->ops->activations ? d->ops->activations(d, bfloat) : ok();
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
    TRY(d->ops->memory(d, bytes, memory));
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
    d->ops->memory_free(d, memory);
    d->use.now[kind] -= bytes;
    d->use.total -= bytes;
}

struct memory_use device_memory(const struct device *d)
{
    return d->use;
}

void device_memory_mark(struct device *d)
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

/* -------------------------------------------------------------------------------- weights */

void device_store(struct device *d, void *memory, int64_t bytes, bool fill)
{
    d->store = memory;
    d->store_bytes = bytes;
    d->stored = 0;
    d->fill = fill;
}

int64_t device_stored(const struct device *d)
{
    return d->stored;
}

static enum dtype kept_type(const struct weight_source *s, int bits)
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

struct error device_weight(struct device *d, const struct weight_source *s, int bits, struct weight **weight)
{
    TRY(check_bits(s, bits));
    if (s->out < 1 || s->in < 0 || s->kh < 1 || s->kw < 1 || (s->gated && s->out % 2 != 0))
        return error_failed("a weight of a shape that no layer has");
    struct weight *w = memory_alloc(1, sizeof *w);
    if (!w)
        return error_memory("a weight's handle");
    *w = (struct weight){.out = s->out,
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
        int64_t bytes = d->ops->weight_place(d, w, d->store ? d->store + d->stored : NULL);
        if (d->store && d->stored + bytes > d->store_bytes)
            e = error_failed("the store of weights is too small");
        else if (d->store && d->fill && w->norm)
            pack_norm(w, s);
        else if (d->store && d->fill)
            e = d->ops->weight_pack(d, w, s);
        d->stored += bytes;
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

/* Gives the next free place to every id that has none yet; returns how many have one now. */
static int64_t give_places(struct weight *w, const int32_t *ids, int64_t count)
{
    int64_t rows = w->resident_rows;
    for (int64_t i = 0; i < count; i++)
        if (ids[i] >= 0 && ids[i] < w->out && w->host_place[ids[i]] < 0)
            w->host_place[ids[i]] = (int32_t)rows++;
    return rows;
}

/* Places and rows as they will be on the device. */
static void lay_out_rows(const struct weight *w, char *memory, int64_t places)
{
    memcpy(memory, w->host_place, (size_t)w->out * sizeof *w->host_place);
    for (int64_t i = 0; i < w->out; i++)
        if (w->host_place[i] >= 0)
            dtype_to_float((float *)(memory + places) + w->host_place[i] * w->in,
                           (const char *)w->data + i * w->in * dtype_size(w->type), w->type, w->in);
}

/* Forgets all rows. */
static void forget_rows(struct device *d, struct weight *w)
{
    device_memory_free(d, MEMORY_WEIGHTS, w->resident, w->resident_bytes);
    memset(w->host_place, 0xff, (size_t)w->out * sizeof *w->host_place);
    w->resident = NULL;
    w->resident_rows = w->resident_bytes = 0;
    w->place = NULL;
    w->rows = NULL;
    d->generation++;
}

/* Allocates memory for all `rows` that have a place, replacing the previous memory. */
static struct error move_rows(struct device *d, struct weight *w, int64_t rows)
{
    enum { ALIGN = 128 };
    int64_t places = round_up(w->out * (int64_t)sizeof *w->host_place, ALIGN);
    int64_t bytes = places + rows * w->in * (int64_t)sizeof(float);
    char *memory = memory_alloc(bytes, 1);
    if (!memory)
        return error_memory("a table's rows");
    lay_out_rows(w, memory, places);
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

struct error device_rows(struct device *d, struct weight *w, const int32_t *ids, int64_t count)
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
    int64_t rows = give_places(w, ids, count);
    if (rows == w->resident_rows)
        return ok();
    struct error e = move_rows(d, w, rows);
    if (e.code != ERROR_NONE)
        forget_rows(d, w);
    return e;
}

static const void *moved(const void *at, const char *from, const char *to)
{
    return at ? to + ((const char *)at - from) : NULL;
}

struct error device_settle(struct device *d, struct weight **weights, int64_t count, const void *memory, int64_t bytes,
                           void **settled)
{
    *settled = NULL;
    if (!d->ops->upload || bytes == 0)
        return ok();
    TRY(device_memory_alloc(d, MEMORY_WEIGHTS, bytes, settled));
    struct error e = d->ops->upload(d, *settled, memory, bytes);
    if (e.code != ERROR_NONE) {
        device_unsettle(d, *settled, bytes);
        *settled = NULL;
        return e;
    }
    for (int64_t i = 0; i < count; i++) {
        struct weight *w = weights[i];
        if (w->table)
            continue;
        w->data = moved(w->data, memory, *settled);
        w->scale = moved(w->scale, memory, *settled);
        w->bias = moved(w->bias, memory, *settled);
        w->groups = moved(w->groups, memory, *settled);
    }
    return ok();
}

void device_unsettle(struct device *d, void *settled, int64_t bytes)
{
    device_memory_free(d, MEMORY_WEIGHTS, settled, bytes);
}

/* -------------------------------------------------------------------------------- tensors */

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

struct error device_keep(struct device *d, enum dtype type, int64_t lanes, int64_t height, int64_t width,
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

void device_release(struct device *d, struct tensor *t)
{
    if (t->base) {
        device_memory_free(d, MEMORY_STATE, t->base->memory, t->base->bytes);
        memory_free(t->base);
    }
    *t = (struct tensor){0};
}

struct tensor tensor_channels(struct tensor x, int64_t first, int64_t count)
{
    x.offset += first * dtype_size(x.type);
    x.channels = count;
    return x;
}

struct tensor tensor_lanes(struct tensor x, int64_t first, int64_t count)
{
    x.offset += first * x.lane_stride * dtype_size(x.type);
    x.lanes = count;
    return x;
}

/* -------------------------------------------------------------------------------- arena and programs */

/* In a dry pass a tensor has no place yet: its offset is its number in the list of takes, far from the next one's, so
 * that views of its channels stay apart. */
static const int64_t NUMBERED = (int64_t)1 << 40;

/* The place of the program's next tensor: recorded in the dry pass, looked up in a run. */
static int64_t next_offset(struct device *d, int64_t bytes)
{
    struct program *p = d->program;
    if (!d->dry) {
        if (d->cursor < p->take_count && p->takes[d->cursor].bytes == bytes)
            return p->takes[d->cursor++].offset;
        device_fail(d, error_failed("a program took different tensors than in its dry pass"));
        return -1;
    }
    struct span *more = memory_grow(p->takes, p->take_count, &p->take_room, sizeof *more);
    if (!more) {
        device_fail(d, error_memory("a program's plan"));
        return -1;
    }
    p->takes = more;
    p->takes[p->take_count] = (struct span){0, bytes, d->clock++, INT64_MAX};
    return NUMBERED * p->take_count++;
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
        d->program->takes[t->offset / NUMBERED].died = d->clock++;
    *t = (struct tensor){0};
}

static struct error follow(struct program *p, bool dry)
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

struct error device_program(struct device *d, struct error (*body)(void *arg), void *arg, struct program **program)
{
    TRY(device_wait(d));
    struct program *p = memory_alloc(1, sizeof *p);
    if (!p)
        return error_memory("a program");
    *p = (struct program){.device = d, .body = body, .arg = arg};
    d->programs++;
    struct error e = follow(p, true);
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

struct error device_run(struct program *p)
{
    if (p->bytes > p->device->arena.bytes)
        return error_failed("the arena is gone");
    return p->device->ops->run ? p->device->ops->run(p) : program_pass(p);
}

struct error program_pass(struct program *p)
{
    return follow(p, false);
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
    if (d->ops->forget)
        d->ops->forget(p);
    memory_free(p->takes);
    memory_free(p);
}

int64_t program_bytes(const struct program *p)
{
    return p->bytes;
}

/* -------------------------------------------------------------------------------- other ranks */

bool device_joins(const struct device *d)
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

/* -------------------------------------------------------------------------------- ops */

/* Is there anything to compute? Not after a wrong shape or an earlier error, and not in a dry pass. */
static bool ready(struct device *d, struct error e)
{
    if (e.code != ERROR_NONE)
        device_fail(d, e);
    return d->error.code == ERROR_NONE && !d->dry;
}

static struct error check_host(struct tensor t)
{
    return t.base ? ok() : error_failed("a tensor without memory was written or read");
}

void device_write(struct device *d, struct tensor to, const void *from)
{
    if (ready(d, check_host(to)))
        d->ops->write(d, to, from);
}

void device_read(struct device *d, void *to, struct tensor from)
{
    if (ready(d, check_host(from)))
        d->ops->read(d, to, from);
}

void op_linear(struct device *d, struct tensor y, struct tensor x, const struct weight *w, struct epilogue e)
{
    if (ready(d, check_linear(y, x, w, e)))
        d->ops->linear(d, y, x, w, e);
}

void op_conv(struct device *d, struct tensor y, struct tensor x, const struct weight *w, struct conv c,
             struct epilogue e)
{
    if (ready(d, check_conv(y, x, w, c, e)))
        d->ops->conv(d, y, x, w, c, e);
}

void op_norm(struct device *d, struct tensor y, struct tensor x, const struct weight *w, int64_t groups, float eps,
             enum act act)
{
    if (ready(d, check_norm(y, x, w, groups, act)))
        d->ops->norm(d, y, x, w, groups, eps, act);
}

void op_attention(struct device *d, struct tensor y, struct tensor q, struct tensor k, struct tensor v, int64_t heads,
                  bool causal)
{
    if (ready(d, check_attention(y, q, k, v, heads, causal)))
        d->ops->attention(d, y, q, k, v, heads, causal);
}

void op_act(struct device *d, struct tensor y, struct tensor x, enum act act)
{
    if (ready(d, check_act(y, x, act)))
        d->ops->act(d, y, x, act);
}

void op_copy(struct device *d, struct tensor y, struct tensor x, struct tensor map)
{
    if (ready(d, check_copy(y, x, map)))
        d->ops->copy(d, y, x, map);
}

void op_embed(struct device *d, struct tensor y, struct tensor ids, const struct weight *table,
              const struct weight *positions, struct tensor rows, int64_t first)
{
    if (ready(d, check_embed(y, ids, table, positions, rows)))
        d->ops->embed(d, y, ids, table, positions, rows, first);
}

void op_timestep(struct device *d, struct tensor y, struct tensor t, bool flip_sin_to_cos, float shift)
{
    if (ready(d, check_timestep(y, t)))
        d->ops->timestep(d, y, t, flip_sin_to_cos, shift);
}

void op_loss(struct device *d, struct tensor slots, struct tensor pred, struct tensor target, struct tensor map)
{
    if (ready(d, check_loss(slots, pred, target, map)))
        d->ops->loss(d, slots, pred, target, map);
}

void op_draw(struct device *d, struct tensor y, struct tensor step, uint64_t seed, uint32_t stream)
{
    if (ready(d, check_draw(y, step)))
        d->ops->draw(d, y, step, seed, stream);
}

void op_noise(struct device *d, struct tensor noisy, struct tensor target, struct tensor timesteps,
              const struct noising *n)
{
    if (ready(d, check_noise(noisy, target, timesteps, n)))
        d->ops->noise(d, noisy, target, timesteps, n);
}

void op_perturb(struct device *d, struct tensor rows, struct tensor embedding, struct tensor directions,
                struct tensor which, double eps)
{
    if (ready(d, check_perturb(rows, embedding, directions, which)))
        d->ops->perturb(d, rows, embedding, directions, which, eps);
}

void op_update(struct device *d, const struct update *u)
{
    if (ready(d, check_update(u)))
        d->ops->update(d, u);
}

void op_sum(struct device *d, struct tensor slots)
{
    if (ready(d, check_sum(slots)) && d->joined)
        d->ops->sum(d, slots);
}

void op_share(struct device *d, struct tensor t, int root)
{
    if (ready(d, check_share(t)) && d->joined)
        d->ops->share(d, t, root);
}
