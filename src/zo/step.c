#include "zo/step.h"

#include <string.h>

#include "base/memory.h"
#include "base/rng.h"

enum { LANES_AT_ONCE = 32 };

/* -------------------------------------------------------------------------------- choices */

static void choose_pictures(const struct lane_choices *to, const struct draws *d, int64_t first, int64_t pictures)
{
    for (int64_t p = 0; p < pictures; p++) {
        int64_t b = (first + p) % d->shape.batch;
        int32_t *choice = to->picture[p];
        choice[0] = (int32_t)(d->picture[b] + (d->flip[b] ? d->shape.pictures : 0));
        choice[1] = d->timestep[b];
        choice[2] = (int32_t)b;
    }
}

static void repeat_first(const struct lane_choices *to, int64_t lanes)
{
    to->caption[lanes - 1] = to->caption[0];
    to->direction[lanes - 1] = to->direction[0];
    to->picture_of[lanes - 1] = to->picture_of[0];
}

/* Lanes are ordered by direction, each with all pictures of the batch. A batch of lanes that would reach past the end
 * of the share evaluates the share's last lane again, so that all batches have the same shape. */
static void choose(const struct step *s, const struct draws *d, bool repeat)
{
    const struct evaluator_shape *e = &s->lanes.evaluator.shape;
    int64_t pictures = d->shape.batch, end = s->share.first + s->share.count, n = d->shape.n;
    for (int64_t j = 0; j < s->lanes.batches; j++) {
        struct lane_choices to = lanes_choices(&s->lanes, j);
        int64_t first = s->share.first + j * e->lanes;
        choose_pictures(&to, d, first, e->pictures);
        for (int64_t k = 0; k < e->lanes; k++) {
            int64_t lane = first + k < end ? first + k : end - 1, i = lane / pictures;
            to.caption[k] = d->caption[lane % pictures];
            to.direction[k] = (int32_t)(i > n ? n - i : i);
            to.picture_of[k] = (int32_t)((lane - first) % e->pictures);
        }
        if (repeat && j == 0)
            repeat_first(&to, e->lanes);
    }
}

/* -------------------------------------------------------------------------------- the programs */

static void draw(const struct step *s)
{
    lanes_draw(&s->parts, s->posterior, s->number, STREAM_POSTERIOR);
    lanes_draw(&s->parts, s->noise, s->number, STREAM_NOISE);
    op_draw(s->parts.device, s->directions, s->number, (uint64_t)s->parts.config->seed, STREAM_DIRECTION + 1);
}

/* Evaluates batch j of this rank's lanes, from the draws to the losses in their slots. */
static void evaluate_batch(const struct step *s, int64_t j)
{
    const struct evaluator *e = &s->lanes.evaluator;
    const struct lane_draws draws = {s->posterior, s->noise, s->embedding, s->directions};
    lanes_prepare(&s->lanes, j, &draws);
    evaluator_forward(e);
    int64_t done = j * e->shape.lanes, left = s->share.count - done;
    int64_t count = left < e->shape.lanes ? left : e->shape.lanes;
    op_copy(s->parts.device, tensor_lanes(s->slots, s->share.first + done, count), tensor_lanes(e->losses, 0, count),
            (struct tensor){0});
}

static struct error evaluate_body(void *arg)
{
    const struct step *s = arg;
    draw(s);
    for (int64_t j = 0; j < s->lanes.batches; j++)
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
    op_broadcast(s->parts.device, s->embedding, 0); // mixed hardware cannot drift apart
    return ok();
}

/* -------------------------------------------------------------------------------- running */

static void write_step(struct step *s, int64_t number, const struct draws *draws, const double *notes, bool repeat)
{
    s->number_now = number;
    device_write(s->parts.device, s->number, &s->number_now);
    if (s->share.count > 0) {
        choose(s, draws, repeat);
        lanes_write(&s->lanes);
    }
    memcpy(s->fresh + s->shape.lanes, notes, (size_t)s->shape.notes * sizeof *notes);
    device_write(s->parts.device, s->slots, s->fresh);
}

struct error step_evaluate(struct step *s, int64_t number, const struct draws *draws, const double *notes, bool repeat)
{
    write_step(s, number, draws, notes, repeat);
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

static struct error keep_tensors(struct step *s)
{
    const struct dataset *set = s->parts.dataset;
    const struct config *c = s->parts.config;
    struct device *d = s->parts.device;
    const struct step_shape *shape = &s->shape;
    int64_t vectors = c->token.vectors, width = s->parts.text->config.width;
    int64_t slots = shape->lanes + shape->notes, batch = c->optim.batch_size;
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

/* As few batches as LANES_AT_ONCE allows, all of one size. */
static struct error make_lanes(struct step *s, const struct lane_sources *sources)
{
    int64_t batches = (s->share.count + LANES_AT_ONCE - 1) / LANES_AT_ONCE;
    int64_t lanes = (s->share.count + batches - 1) / batches, batch = s->parts.config->optim.batch_size;
    return lanes_new(&s->lanes, &s->parts, sources, batches, lanes, lanes < batch ? lanes : batch);
}

static struct error make(struct step *s, const struct lane_sources *sources, bool whole)
{
    struct device *d = s->parts.device;
    TRY(keep_tensors(s));
    if (s->share.count > 0)
        TRY(make_lanes(s, sources));
    TRY(program_new(d, evaluate_body, s, &s->evaluate));
    return whole ? program_new(d, whole_body, s, &s->whole) : program_new(d, update_body, s, &s->update);
}

struct error step_new(struct step *s, const struct training_parts *parts, const struct lane_sources *sources,
                      const struct step_shape *shape, struct share share, bool whole)
{
    *s = (struct step){.parts = *parts, .shape = *shape, .share = share};
    struct error e = make(s, sources, whole);
    if (e.code != ERROR_NONE)
        step_free(s);
    return e;
}

void step_whole_only(struct step *s)
{
    if (!s->whole)
        return;
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
    lanes_free(&s->lanes);
    struct tensor *const kept[] = {&s->number, &s->posterior, &s->noise, &s->directions, &s->embedding,    &s->m,
                                   &s->v,      &s->gradient,  &s->slots, &s->removed,    &s->removed_rows, &s->rates};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        device_free_state(s->parts.device, kept[i]);
    memory_free(s->fresh);
    *s = (struct step){0};
}
