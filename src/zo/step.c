#include "zo/step.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"

enum { LANES_AT_ONCE = 32, CHOICE = 3 };

/* -------------------------------------------------------------------------------- integers */

/* For each batch, one after the other: choice [pictures][3], each lane's caption [lanes], its direction [lanes] and
 * its picture [lanes]. */

static int64_t integers_of_batch(const struct step *s)
{
    const struct evaluator_shape *e = &s->evaluator.shape;
    return CHOICE * e->pictures + 3 * e->lanes;
}

/* A view of `count` of batch `batch`'s integers, starting at number `at`. */
static struct tensor integers_view(const struct step *s, int64_t batch, int64_t at, int64_t lanes, int64_t channels)
{
    struct tensor t = s->integers;
    t.offset += (batch * integers_of_batch(s) + at) * dtype_size(I32);
    t.lanes = lanes;
    t.channels = t.row_stride = t.lane_stride = channels;
    return t;
}

static struct tensor choice_of(const struct step *s, int64_t batch)
{
    return integers_view(s, batch, 0, s->evaluator.shape.pictures, CHOICE);
}

enum per_lane { CAPTION, DIRECTION, PICTURE };

static struct tensor lane_map(const struct step *s, int64_t batch, enum per_lane what)
{
    const struct evaluator_shape *e = &s->evaluator.shape;
    return integers_view(s, batch, CHOICE * e->pictures + (int64_t)what * e->lanes, 1, e->lanes);
}

/* Lanes are ordered by direction, each with all pictures of the batch. A batch of lanes that would reach past the end
 * of the share evaluates the share's last lane again, so that all batches have the same shape. */
static void write_integers(struct step *s, const struct draws *d, bool twin)
{
    const struct evaluator_shape *e = &s->evaluator.shape;
    int64_t pictures = d->shape.batch, end = s->share.first + s->share.count, n = d->shape.n;
    for (int64_t j = 0; j < s->batches; j++) {
        int32_t *choice = s->contents + j * integers_of_batch(s), *caption = choice + CHOICE * e->pictures;
        int32_t *direction = caption + e->lanes, *picture = direction + e->lanes;
        int64_t first = s->share.first + j * e->lanes;
        for (int64_t p = 0; p < e->pictures; p++, choice += CHOICE) {
            int64_t b = (first + p) % pictures;
            choice[0] = (int32_t)(d->picture[b] + (d->flip[b] ? d->shape.pictures : 0));
            choice[1] = d->timestep[b];
            choice[2] = (int32_t)b;
        }
        for (int64_t k = 0; k < e->lanes; k++) {
            int64_t lane = first + k < end ? first + k : end - 1, i = lane / pictures;
            caption[k] = d->caption[lane % pictures];
            direction[k] = (int32_t)(i > n ? n - i : i);
            picture[k] = (int32_t)((lane - first) % e->pictures);
        }
        if (twin && j == 0) {
            caption[e->lanes - 1] = caption[0];
            direction[e->lanes - 1] = direction[0];
            picture[e->lanes - 1] = picture[0];
        }
    }
    device_write(s->parts.device, s->integers, s->contents);
}

/* -------------------------------------------------------------------------------- the programs */

static void draw(const struct step *s)
{
    struct device *d = s->parts.device;
    uint64_t seed = (uint64_t)s->parts.config->seed;
    struct tensor flat[] = {s->posterior, s->noise}; // one stream runs through all pictures of the batch
    for (int i = 0; i < 2; i++) {
        flat[i].height *= flat[i].lanes;
        flat[i].lane_stride *= flat[i].lanes;
        flat[i].lanes = 1;
    }
    op_draw(d, flat[0], s->number, seed, STREAM_POSTERIOR);
    op_draw(d, flat[1], s->number, seed, STREAM_NOISE);
    op_draw(d, s->directions, s->number, seed, STREAM_DIRECTION + 1);
}

/* Evaluates batch j of this rank's lanes, from the draws to the losses in their slots. */
static void evaluate_batch(const struct step *s, int64_t j)
{
    struct device *d = s->parts.device;
    const struct evaluator *e = &s->evaluator;
    const struct noising noising = {s->moments,
                                    s->posterior,
                                    s->noise,
                                    s->levels,
                                    choice_of(s, j),
                                    s->parts.scaling_factor,
                                    s->parts.schedule->prediction == PREDICT_V};
    op_add_noise(d, e->in.sample, e->target, e->in.timestep, &noising);
    op_copy(d, e->ids, s->captions, lane_map(s, j, CAPTION));
    op_perturb(d, e->rows, s->embedding, s->directions, lane_map(s, j, DIRECTION), s->parts.config->zo.eps);
    op_copy(d, e->in.map, lane_map(s, j, PICTURE), (struct tensor){0});
    evaluator_forward(e);
    int64_t done = j * e->shape.lanes, left = s->share.count - done;
    int64_t count = left < e->shape.lanes ? left : e->shape.lanes;
    op_copy(d, tensor_lanes(s->slots, s->share.first + done, count), tensor_lanes(e->slots, 0, count),
            (struct tensor){0});
}

static struct error evaluate_body(void *arg)
{
    const struct step *s = arg;
    draw(s);
    for (int64_t j = 0; j < s->batches; j++)
        evaluate_batch(s, j);
    return ok();
}

static struct error update_body(void *arg)
{
    const struct step *s = arg;
    const struct config *c = s->parts.config;
    const struct update u = {
        .embedding = s->embedding,
        .m = s->m,
        .v = s->v,
        .gradient = s->gradient,
        .slots = s->slots,
        .directions = s->directions,
        .removed = s->removed,
        .removed_rows = s->removed_rows,
        .rates = s->rates,
        .sides = c->zo.sides,
        .batch = c->optim.batch_size,
        .eps = c->zo.eps,
        .weight1 = (float)(1 - c->optim.beta1),
        .weight2 = (float)(1 - c->optim.beta2),
        .beta2 = (float)c->optim.beta2,
        .adam_eps = (float)c->optim.eps,
    };
    op_update(s->parts.device, &u);
    return ok();
}

static struct error whole_body(void *arg)
{
    const struct step *s = arg;
    TRY(evaluate_body(arg));
    op_sum(s->parts.device, s->slots);
    TRY(update_body(arg));
    op_share(s->parts.device, s->embedding, 0); // mixed hardware cannot drift apart
    return ok();
}

/* -------------------------------------------------------------------------------- running */

static void write_step(struct step *s, int64_t number, const struct draws *draws, const double *notes, bool twin)
{
    s->number_now = number;
    device_write(s->parts.device, s->number, &s->number_now);
    if (s->share.count > 0)
        write_integers(s, draws, twin);
    memcpy(s->fresh + s->shape.lanes, notes, (size_t)s->shape.notes * sizeof *notes);
    device_write(s->parts.device, s->slots, s->fresh);
}

struct error step_evaluate(struct step *s, int64_t number, const struct draws *draws, const double *notes, bool twin)
{
    write_step(s, number, draws, notes, twin);
    return program_run(s->evaluate);
}

struct error step_update(struct step *s, const double rates[3])
{
    device_write(s->parts.device, s->rates, rates);
    return program_run(s->update);
}

struct error step_whole(struct step *s, int64_t number, const struct draws *draws, const double *notes,
                        const double rates[3])
{
    write_step(s, number, draws, notes, false);
    device_write(s->parts.device, s->rates, rates);
    return program_run(s->whole);
}

void step_put_removed(struct step *s, const struct state *state)
{
    struct device *d = s->parts.device;
    int32_t rows = (int32_t)state->subspace.removed_rows;
    s->removed_rows_now = rows;
    if (rows > 0)
        device_write(d, tensor_lanes(s->removed, 0, rows), state->subspace.removed);
    device_write(d, s->removed_rows, &s->removed_rows_now);
}

void step_put(struct step *s, const struct state *state)
{
    struct device *d = s->parts.device;
    device_write(d, s->embedding, state->embedding);
    device_write(d, s->m, state->m);
    device_write(d, s->v, state->v);
    step_put_removed(s, state);
}

struct error step_get(struct step *s, struct state *state)
{
    struct device *d = s->parts.device;
    device_read(d, state->embedding, s->embedding);
    device_read(d, state->m, s->m);
    device_read(d, state->v, s->v);
    return device_wait(d);
}

/* -------------------------------------------------------------------------------- making, freeing */

/* Posterior means and standard deviations of every picture, then of every mirrored one. */
static struct error put_moments(struct step *s)
{
    const struct dataset *set = s->parts.dataset;
    int64_t sides = set->moments[1] ? 2 : 1, places = set->count * set->height * set->width, c = set->channels;
    struct device *d = s->parts.device;
    TRY(device_alloc_state(d, F32, sides * set->count, set->height, set->width, 2 * c, &s->moments));
    float *all = memory_alloc(sides * places * 2 * c, sizeof *all);
    if (!all)
        return error_memory("the pictures' moments");
    for (int64_t i = 0; i < sides * places; i++)
        dataset_moments(set, i / places, i % places, all + i * 2 * c);
    device_write(d, s->moments, all);
    struct error e = device_wait(d);
    memory_free(all);
    return e;
}

static struct error put_levels(struct step *s)
{
    const struct noise_schedule *schedule = s->parts.schedule;
    struct device *d = s->parts.device;
    TRY(device_alloc_state(d, F32, schedule->steps, 1, 1, 2, &s->levels));
    float *all = memory_alloc(schedule->steps * 2, sizeof *all);
    if (!all)
        return error_memory("the noise levels");
    for (int64_t t = 0; t < schedule->steps; t++) {
        all[2 * t] = sqrtf(schedule->alphas_cumprod[t]);
        all[2 * t + 1] = sqrtf(1.0f - schedule->alphas_cumprod[t]);
    }
    device_write(d, s->levels, all);
    struct error e = device_wait(d);
    memory_free(all);
    return e;
}

static struct error keep_tensors(struct step *s)
{
    const struct dataset *set = s->parts.dataset;
    const struct config *c = s->parts.config;
    struct device *d = s->parts.device;
    const struct step_shape *shape = &s->shape;
    int64_t vectors = shape->vectors, width = shape->width, slots = shape->lanes + shape->notes,
            batch = c->optim.batch_size;
    TRY(device_alloc_state(d, I64, 1, 1, 1, 1, &s->number));
    TRY(device_alloc_state(d, F32, batch, set->height, set->width, set->channels, &s->posterior));
    TRY(device_alloc_state(d, F32, batch, set->height, set->width, set->channels, &s->noise));
    TRY(device_alloc_state(d, F32, c->zo.n, 1, vectors, width, &s->directions));
    TRY(device_alloc_state(d, F32, 1, 1, vectors, width, &s->embedding));
    TRY(device_alloc_state(d, F32, 1, 1, vectors, width, &s->m));
    TRY(device_alloc_state(d, F32, 1, 1, vectors, width, &s->v));
    TRY(device_alloc_state(d, F64, 1, 1, vectors, width, &s->gradient));
    TRY(device_alloc_state(d, F64, slots, 1, 1, 1, &s->slots));
    TRY(device_alloc_state(d, F32, shape->tau > 1 ? shape->tau - 1 : 1, 1, vectors, width, &s->removed));
    TRY(device_alloc_state(d, I32, 1, 1, 1, 1, &s->removed_rows));
    s->fresh = memory_alloc(slots, sizeof *s->fresh);
    if (!s->fresh)
        return error_memory("a step's slots");
    return device_alloc_state(d, F64, 1, 1, 1, 3, &s->rates);
}

static struct error keep_inputs(struct step *s)
{
    const struct dataset *set = s->parts.dataset;
    struct device *d = s->parts.device;
    int64_t count = s->batches * integers_of_batch(s);
    s->contents = memory_alloc(count, sizeof *s->contents);
    if (!s->contents)
        return error_memory("a step's integers");
    TRY(device_alloc_state(d, I32, 1, 1, 1, count, &s->integers));
    TRY(device_alloc_state(d, I32, set->captions.count, 1, set->length, 1, &s->captions));
    device_write(d, s->captions, set->ids);
    TRY(put_moments(s));
    return put_levels(s);
}

/* As few batches as LANES_AT_ONCE allows, all of one size. */
static struct error make_evaluator(struct step *s)
{
    const struct training_parts *p = &s->parts;
    const struct dataset *set = p->dataset;
    s->batches = (s->share.count + LANES_AT_ONCE - 1) / LANES_AT_ONCE;
    int64_t lanes = (s->share.count + s->batches - 1) / s->batches, batch = p->config->optim.batch_size;
    const struct evaluator_shape shape = {lanes,
                                          lanes < batch ? lanes : batch,
                                          set->height,
                                          set->width,
                                          set->channels,
                                          set->length,
                                          s->shape.vectors,
                                          s->shape.width,
                                          p->first_id};
    return evaluator_new(&s->evaluator, p->device, p->text, p->unet, &shape);
}

struct error step_new(struct step *s, const struct training_parts *parts, const struct step_shape *shape,
                      struct share share, bool at_once)
{
    *s = (struct step){.parts = *parts, .shape = *shape, .share = share};
    struct error e = keep_tensors(s);
    if (e.code == ERROR_NONE && share.count > 0)
        e = make_evaluator(s);
    if (e.code == ERROR_NONE && share.count > 0)
        e = keep_inputs(s);
    if (e.code == ERROR_NONE)
        e = program_new(parts->device, evaluate_body, s, &s->evaluate);
    if (e.code == ERROR_NONE)
        e = at_once ? program_new(parts->device, whole_body, s, &s->whole)
                    : program_new(parts->device, update_body, s, &s->update);
    if (e.code != ERROR_NONE)
        step_free(s);
    return e;
}

void step_whole_only(struct step *s)
{
    program_free(s->evaluate);
    s->evaluate = NULL;
}

void step_free(struct step *s)
{
    if (!s->parts.device)
        return;
    program_free(s->evaluate);
    program_free(s->update);
    program_free(s->whole);
    evaluator_free(&s->evaluator);
    struct tensor *const kept[] = {&s->number,   &s->integers,  &s->moments,      &s->levels,
                                   &s->captions, &s->posterior, &s->noise,        &s->m,
                                   &s->v,        &s->gradient,  &s->directions,   &s->embedding,
                                   &s->slots,    &s->removed,   &s->removed_rows, &s->rates};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        device_free_state(s->parts.device, kept[i]);
    memory_free(s->contents);
    memory_free(s->fresh);
    *s = (struct step){0};
}
