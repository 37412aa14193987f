/* op NAME IN.safetensors OUT.safetensors [KEY=NUMBER]...
 *
 * Runs one op of the device on tensors from a file, so that it can be compared with PyTorch, and checks that no lane's
 * bits depend on the lanes beside it, on its place or on threads: the op runs again for each of the first, middle and
 * last lanes alone with 1, 2 and 3 threads, and a differing byte is an error. A tangent runs with its primal alone.
 *
 * Tensors: `x` [lanes, height, width, channels] and whichever the op needs of `k`, `v`, `map`, `target`, `rows`,
 * `lane_bias`, `residual` of the same form; `weight` [out, in, kh, kw], 4-bit codes as in a file or a table [rows,
 * dim], `scale`, `shift`, `bias`, `positions`; the result is `y` (height=, width=, channels= give its shape if it is
 * not x's); `k` is the mask of `loss`. Numbers: bits, gated, act, threads, device (1: the GPU), bfloat, stride, pad, up, groups, eps (in
 * millionths), heads, causal, first, flip, shift, seed, stream (of `draw`, whose x holds the step in every lane),
 * velocity (of `add_noise`), repeat (prints GFLOP/s), slice (reads x as the middle of wider channels), in_place (y is
 * the residual, or a norm's x); for 4-bit codes, the shape that they do not show: out, in, kernel, cycle.
 *
 * Tangents: with `of` I32 [1, 1, 1, lanes] among the tensors, lanes [0, primal=) are primal, the others tangents of
 * scale 2^log2=, multiplied in tangent_bits= (32 or 8), after a run in floats that finds outliers= (0 or 1). Tensors of
 * fewer lanes have the primal ones.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "device/kinds.h"
#include "files/safetensors.h"
#include "files/safetensors_write.h"
#include "helper.h"

struct job {
    int argc;
    char **argv;
    const char *name;
    struct safetensors in;
};

/* The job for all lanes, or for lane `first` alone (a tangent comes after its primal), on its own device. */
struct run {
    const struct job *job;
    struct device *device;
    bool alone;
    int64_t first, lanes;
    int64_t primal; /* of these lanes; 0: there are no tangents */
    struct tensor of;
    struct tensor x, wide, k, v, map, target, rows, lane_bias, residual, y;
    struct weight *weight, *positions;
    void *store, *settled;
    int64_t store_bytes;
};

static int64_t number(const struct job *job, const char *key, int64_t otherwise)
{
    size_t length = strlen(key);
    for (int i = 4; i < job->argc; i++)
        if (strncmp(job->argv[i], key, length) == 0 && job->argv[i][length] == '=')
            return atoll(job->argv[i] + length + 1);
    return otherwise;
}

/* Lanes of the job, which may be more than x has. */
static int64_t all_lanes(const struct job *job)
{
    const struct entry *x = safetensors_find(&job->in, "x"), *map = safetensors_find(&job->in, "map");
    const struct entry *of = safetensors_find(&job->in, "of");
    return of ? of->count : map ? map->count : x ? x->shape[0] : 1;
}

static const int32_t *numbers_of(const struct job *job, const char *name)
{
    const struct entry *e = safetensors_find(&job->in, name);
    return e ? e->data : NULL;
}

/* The job's lane that is lane `i` of the run. */
static int64_t lane_of(const struct run *r, int64_t i)
{
    const int32_t *of = numbers_of(r->job, "of");
    return !r->alone ? i : of && i == 0 ? of[r->first] : r->first;
}

/* Does the op pick from all lanes of the tensor, by a map or a choice? A lane alone is copied without a map. */
static bool picked_from(const struct run *r, const char *name)
{
    const char *op = r->job->name;
    return strcmp(name, "target") == 0 || (strcmp(op, "loss") == 0 && strcmp(name, "k") == 0) ||
           (strcmp(op, "add_noise") == 0 && strcmp(name, "rows") != 0) ||
           (strcmp(op, "copy") == 0 && strcmp(name, "x") == 0 && r->map.base);
}

/* The run's `map`, kept on the device. */
static struct error keep_map(struct run *r)
{
    const int32_t *map = numbers_of(r->job, "map");
    if (!map || (r->alone && strcmp(r->job->name, "copy") == 0))
        return ok();
    TRY(device_alloc_state(r->device, I32, 1, 1, 1, r->lanes, &r->map));
    for (int64_t i = 0; i < r->lanes; i++)
        device_write(r->device, tensor_channels(r->map, i, 1), map + lane_of(r, i));
    return device_wait(r->device);
}

/* Each lane's primal. A lane alone is its own, or the tangent of the lane before. */
static struct error keep_of(struct run *r)
{
    static const int32_t alone[2] = {0, 0};
    const int32_t *of = numbers_of(r->job, "of");
    if (!of)
        return ok();
    TRY(device_alloc_state(r->device, I32, 1, 1, 1, r->lanes, &r->of));
    device_write(r->device, r->of, r->alone ? alone : of);
    return device_wait(r->device);
}

/* The run's lanes of a tensor of the file, kept on the device; empty if the file has none. */
static struct error keep(struct run *r, const char *name, struct tensor *t)
{
    const struct entry *e = safetensors_find(&r->job->in, name);
    if (!e)
        return ok();
    const int64_t *s = e->shape, bytes = s[1] * s[2] * s[3] * dtype_size(e->type);
    const int32_t *map = strcmp(r->job->name, "copy") == 0 ? numbers_of(r->job, "map") : NULL;
    bool all = picked_from(r, name), only_primal = r->primal && s[0] == number(r->job, "primal", 1);
    int64_t count = all ? s[0] : only_primal ? r->primal : r->lanes;
    TRY(device_alloc_state(r->device, e->type, count, s[1], s[2], s[3], t));
    for (int64_t i = 0; i < count; i++) {
        int64_t lane = all ? i : map ? map[lane_of(r, i)] : lane_of(r, i);
        device_write(r->device, tensor_lanes(*t, i, 1), (const char *)e->data + lane * bytes);
    }
    return device_wait(r->device);
}

/* x as channels [3, 3 + channels) of a tensor with 8 more, to test strides. */
static struct error slice(struct run *r)
{
    struct tensor t = r->x;
    TRY(device_alloc_state(r->device, t.type, t.lanes, t.height, t.width, t.channels + 8, &r->wide));
    op_copy(r->device, tensor_channels(r->wide, 3, t.channels), t, (struct tensor){0});
    TRY(device_wait(r->device));
    device_free_state(r->device, &r->x);
    r->x = tensor_channels(r->wide, 3, t.channels);
    return ok();
}

static struct weight_source source_of(const struct job *job, const char *name)
{
    const struct entry *w = safetensors_find(&job->in, name), *scale = safetensors_find(&job->in, "scale");
    const struct entry *bias = safetensors_find(&job->in, "bias");
    struct weight_source s = {.kh = 1, .kw = 1};
    if (!w)
        return s;
    s = (struct weight_source){.data = w->data, .type = w->type, .out = w->shape[0], .kh = 1, .kw = 1};
    s.in = w->dimensions > 1 ? w->shape[1] : 0;
    if (w->dimensions > 2)
        s.kh = w->shape[2], s.kw = w->shape[3];
    if (scale)
        s.scale = scale->data, s.scale_type = scale->type;
    if (w->type == U8) {
        s.shift = safetensors_find(&job->in, "shift")->data;
        s.out = number(job, "out", 1), s.in = number(job, "in", 1), s.cycle = number(job, "cycle", 0);
        s.kh = s.kw = number(job, "kernel", 1);
    }
    if (bias)
        s.bias = bias->data, s.bias_type = bias->type;
    s.gated = number(job, "gated", 0);
    s.table = strcmp(job->name, "embed") == 0;
    return s;
}

static struct error use_all_rows(struct device *d, struct weight *table, int64_t rows)
{
    int32_t *all = memory_alloc(rows, sizeof *all);
    if (!all)
        return error_memory("a table's ids");
    for (int64_t i = 0; i < rows; i++)
        all[i] = (int32_t)i;
    struct error e = device_upload_rows(d, table, all, rows);
    memory_free(all);
    return e;
}

static struct error load_weight(struct run *r)
{
    struct weight_source s = source_of(r->job, "weight"), p = source_of(r->job, "positions");
    if (!s.data)
        return ok();
    int bits = (int)number(r->job, "bits", 32);
    device_store_begin(r->device, NULL, 0, false);
    TRY(weight_new(r->device, &s, bits, &r->weight));
    weight_free(r->weight);
    r->weight = NULL;
    int64_t bytes = device_store_bytes(r->device);
    r->store_bytes = bytes;
    r->store = memory_alloc(bytes, 1);
    device_store_begin(r->device, r->store, bytes, true);
    TRY(weight_new(r->device, &s, bits, &r->weight));
    if (!p.data)
        return device_upload(r->device, &r->weight, 1, r->store, bytes, &r->settled);
    TRY(weight_new(r->device, &p, bits, &r->positions));
    TRY(use_all_rows(r->device, r->weight, s.out));
    return use_all_rows(r->device, r->positions, p.out);
}

/* y: the noisy latents, then what the network should predict for them. x: moments, k (may be missing): posterior, v:
 * noise, target: levels, rows: choice. */
static void add_noise(const struct run *r, struct tensor y)
{
    struct device *d = r->device;
    int64_t channels = y.channels / 2;
    struct tensor noisy = device_alloc(d, F32, y.lanes, y.height, y.width, channels);
    struct tensor target = device_alloc(d, F32, y.lanes, y.height, y.width, channels);
    struct tensor timesteps = device_alloc(d, F32, y.lanes, 1, 1, 1);
    const struct add_noise n = {r->x, r->k, r->v, r->target, r->rows, 0.18215f, number(r->job, "velocity", 0)};
    op_add_noise(d, noisy, target, timesteps, &n);
    op_copy(d, tensor_channels(y, 0, channels), noisy, (struct tensor){0});
    op_copy(d, tensor_channels(y, channels, channels), target, (struct tensor){0});
    device_free(d, &timesteps);
    device_free(d, &target);
    device_free(d, &noisy);
}

/* Computes y; in place, y holds the residual or a norm's x already. */
static void run_op(struct run *r, struct tensor y)
{
    struct device *d = r->device;
    const struct job *j = r->job;
    enum act act = (enum act)number(j, "act", ACT_NONE);
    struct epilogue e = {.act = act,
                         .lane_bias = r->lane_bias.base ? &r->lane_bias : NULL,
                         .residual = r->residual.base ? &r->residual : NULL};
    struct conv c = {.stride = number(j, "stride", 1), .pad = number(j, "pad", 0), .up = number(j, "up", 0)};
    if (strcmp(j->name, "linear") == 0)
        op_linear(d, y, r->x, r->weight, e);
    else if (strcmp(j->name, "conv") == 0)
        op_conv(d, y, r->x, r->weight, c, e);
    else if (strcmp(j->name, "norm") == 0)
        op_norm(d, y, r->x, r->weight, number(j, "groups", 0), (float)number(j, "eps", 10) * 1e-6f, act);
    else if (strcmp(j->name, "attention") == 0)
        op_attention(d, y, r->x, r->k, r->v, number(j, "heads", 1), number(j, "causal", 0));
    else if (strcmp(j->name, "copy") == 0)
        op_copy(d, y, r->x, r->map);
    else if (strcmp(j->name, "embed") == 0)
        op_embed(d, y, r->x, r->weight, r->positions, r->rows, number(j, "first", 1 << 30));
    else if (strcmp(j->name, "timestep") == 0)
        op_timestep(d, y, r->x, number(j, "flip", 1), (float)number(j, "shift", 0));
    else if (strcmp(j->name, "draw") == 0)
        op_draw(d, y, tensor_lanes(r->x, 0, 1), (uint64_t)number(j, "seed", 0),
                (uint32_t)(number(j, "stream", 0) + r->first));
    else if (strcmp(j->name, "loss") == 0)
        op_loss(d, y, r->x, r->target, r->map, r->k);
    else if (strcmp(j->name, "add_noise") == 0)
        add_noise(r, y);
}

static struct error body(void *arg)
{
    struct run *r = arg;
    struct device *d = r->device;
    const struct job *j = r->job;
    const struct tangents tangents = {r->primal, r->of, ldexp(1, (int)number(j, "log2", 0))};
    bool in_place = number(j, "in_place", 0);
    struct tensor y = !in_place ? device_alloc(d, r->y.type, r->y.lanes, r->y.height, r->y.width, r->y.channels)
                      : r->residual.base ? r->residual
                                         : r->x;
    if (r->primal)
        tangents_begin(d, &tangents);
    run_op(r, y);
    tangents_end(d);
    op_copy(d, r->y, y, (struct tensor){0});
    if (!in_place)
        device_free(d, &y);
    return ok();
}

static struct error prepare(struct run *r)
{
    TRY(keep_map(r));
    TRY(keep_of(r));
    TRY(keep(r, "x", &r->x));
    if (!r->x.base)
        return error_input("%s: tensor x: is missing", r->job->in.path);
    if (number(r->job, "slice", 0))
        TRY(slice(r));
    struct {
        const char *name;
        struct tensor *to;
    } all[] = {{"k", &r->k},
               {"v", &r->v},
               {"target", &r->target},
               {"rows", &r->rows},
               {"lane_bias", &r->lane_bias},
               {"residual", &r->residual}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        TRY(keep(r, all[i].name, all[i].to));
    TRY(load_weight(r));
    return device_alloc_state(r->device, strcmp(r->job->name, "loss") == 0 ? F64 : F32, r->lanes,
                              number(r->job, "height", r->x.height), number(r->job, "width", r->x.width),
                              number(r->job, "channels", r->x.channels), &r->y);
}

static void clean(struct run *r)
{
    struct tensor *all[] = {&r->k,         &r->v,       &r->map, &r->of,
                            &r->target,    &r->rows,    &r->y,   r->wide.base ? &r->wide : &r->x,
                            &r->lane_bias, &r->residual};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device_free_state(r->device, all[i]);
    weight_free(r->weight);
    weight_free(r->positions);
    device_upload_free(r->device, r->settled, r->store_bytes);
    memory_free(r->store);
    device_close(r->device);
}

static void time_it(struct run *r, struct program *program, int64_t repeat)
{
    double best = 1e30;
    for (int64_t i = 0; i < repeat; i++) {
        double start = clock_seconds();
        program_run(program);
        double took = clock_seconds() - start;
        best = took < best ? took : best;
    }
    struct weight_source s = source_of(r->job, "weight");
    double positions = (double)(r->y.lanes * r->y.height * r->y.width);
    double work = s.data ? 2.0 * positions * (double)(s.out * s.in * s.kh * s.kw)
                         : 4.0 * positions * (double)(r->k.height * r->k.width * r->x.channels);
    printf("%.3f ms %.1f GFLOP/s\n", best * 1e3, work / best * 1e-9);
}

/* Runs all lanes, or if `lane` >= 0 that one alone; *result is the caller's to free. */
static struct error run_lanes(const struct job *job, int64_t lane, int threads, void **result, struct entry *shape)
{
    int64_t all = all_lanes(job), primal = numbers_of(job, "of") ? number(job, "primal", 1) : 0;
    struct run r = {.job = job, .lanes = all, .primal = primal};
    if (lane >= 0) {
        r.alone = true, r.first = lane;
        r.lanes = primal && lane >= primal ? 2 : 1;
        r.primal = primal ? 1 : 0;
    }
    struct program *program = NULL;
    TRY(device_open(&r.device, device_kinds(), number(job, "device", 0) ? "cuda" : "cpu", 0, threads));
    struct error e = device_set_activations(r.device, number(job, "bfloat", 0));
    device_set_tangents(r.device, (int)number(job, "tangent_bits", 32));
    if (e.code == ERROR_NONE)
        e = prepare(&r);
    if (e.code == ERROR_NONE)
        e = program_new(r.device, body, &r, &program);
    if (e.code == ERROR_NONE && number(job, "outliers", 0)) { // run in floats first
        device_use_codes(r.device, 0);
        device_find_outliers(r.device, true);
        e = program_run(program);
        device_find_outliers(r.device, false);
        device_use_codes(r.device, CODES_ALL);
    }
    if (e.code == ERROR_NONE)
        e = program_run(program);
    if (e.code == ERROR_NONE) {
        const struct tensor *y = &r.y;
        *shape = (struct entry){.name = "y",
                                .type = y->type,
                                .dimensions = 4,
                                .shape = {y->lanes, y->height, y->width, y->channels},
                                .count = y->lanes * y->height * y->width * y->channels};
        *result = memory_alloc(shape->count, dtype_size(y->type));
        device_read(r.device, *result, *y);
        e = device_wait(r.device);
        int64_t repeat = number(job, "repeat", 0);
        if (repeat)
            time_it(&r, program, repeat);
    }
    program_free(program);
    clean(&r);
    return e;
}

/* Lane `lane` alone must equal that lane of `all`. */
static struct error check_lane(const struct job *job, const struct entry *all, int64_t lane, int threads)
{
    void *alone = NULL;
    struct entry one;
    struct error e = run_lanes(job, lane, threads, &alone, &one);
    int64_t bytes = e.code == ERROR_NONE ? one.count / one.shape[0] * dtype_size(one.type) : 0;
    const char *last = (const char *)alone + (e.code == ERROR_NONE ? one.shape[0] - 1 : 0) * bytes;
    if (e.code == ERROR_NONE && memcmp(last, (const char *)all->data + lane * bytes, (size_t)bytes) != 0)
        e = error_failed("%s: lane %d alone with %d threads has other bits", job->name, (int)lane, threads);
    memory_free(alone);
    return e;
}

static struct error check_lanes(const struct job *job, const struct entry *all)
{
    int64_t lanes = all->shape[0], tangent = numbers_of(job, "of") ? number(job, "primal", 1) % lanes : 0;
    const int64_t places[] = {0, lanes / 2, lanes - 1, tangent};
    int most = number(job, "device", 0) ? 1 : 3; // does not apply to a GPU's threads
    for (int threads = 1; threads <= most; threads++)
        for (int i = 0; i < (tangent ? 4 : 3); i++)
            TRY(check_lane(job, all, places[i], threads));
    return ok();
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return helper_end("op", error_input("usage: op NAME IN.safetensors OUT.safetensors [KEY=NUMBER]..."));
    struct job job = {.argc = argc, .argv = argv, .name = argv[1]};
    struct error e = safetensors_open(&job.in, argv[2]);
    if (e.code == ERROR_NONE) {
        void *result = NULL;
        struct entry all = {0};
        e = run_lanes(&job, -1, (int)number(&job, "threads", 2), &result, &all);
        all.data = result;
        if (e.code == ERROR_NONE && !number(&job, "repeat", 0))
            e = check_lanes(&job, &all);
        if (e.code == ERROR_NONE)
            e = safetensors_write(argv[3], &all, 1, NULL, 0);
        memory_free(result);
        safetensors_close(&job.in);
    }
    return helper_end("op", e);
}
