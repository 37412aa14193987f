#include "zo/step.h"

#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "zo/tangent_batches.h"

enum { LANES_AT_ONCE = 32, RATES = 3 };

struct step_slots step_slots_of(const struct config *c)
{
    return (struct step_slots){c->zo.n, c->optim.batch_size, c->zo.sides, c->zo.eps,
                               c->zo.derivative == DERIVATIVE_TANGENT};
}

/* -------------------------------------------------------------------------------- choices */

/* What batch j does of this rank's pieces. */
static struct share batch_of(const struct step *s, int64_t j)
{
    const struct evaluator_shape *e = &s->lanes.evaluator.shape;
    int64_t pieces = e->tangents ? e->lanes - e->pictures : e->lanes, done = j * pieces, left = s->share.count - done;
    return (struct share){s->share.first + done, left < pieces ? left : pieces};
}

static void choose_pictures(const struct step *s, const struct lane_choices *to, const struct draws *d, int64_t first,
                            int64_t pictures)
{
    int64_t all = s->lanes.parts.dataset->count;
    for (int64_t p = 0; p < pictures; p++) {
        int64_t b = (first + p) % d->shape.batch;
        int32_t *choice = to->picture[p];
        choice[0] = (int32_t)(d->picture[b] + (d->flip[b] ? all : 0));
        choice[1] = d->timestep[b];
        choice[2] = (int32_t)b;
        if (to->mask)
            to->mask[p] = choice[0];
    }
}

/* Lanes are ordered by direction, each with all pictures of the batch. */
static void choose_differences(const struct step *s, const struct draws *d, int64_t j)
{
    const struct evaluator_shape *e = &s->lanes.evaluator.shape;
    const struct lane_choices to = lanes_choices(&s->lanes, j);
    struct share mine = batch_of(s, j);
    int64_t pictures = d->shape.batch, n = d->shape.n;
    choose_pictures(s, &to, d, mine.first, e->pictures);
    for (int64_t k = 0; k < e->lanes; k++) {
        int64_t at = k < mine.count ? k : mine.count - 1, lane = mine.first + at;
        int64_t i = lane / pictures, b = lane % pictures;
        int32_t row = i > 0 ? (int32_t)draws_direction(d, b, i > n ? i - n : i) + 1 : 0;
        to.caption[k] = d->caption[b];
        to.direction[k] = i > n ? -row : row;
        to.picture_of[k] = (int32_t)(at % e->pictures);
    }
}

/* First the lanes of pictures, some of which only other batches may need, then tangents, picture by picture. */
static void choose_tangents(const struct step *s, const struct draws *d, int64_t j)
{
    const struct evaluator_shape *e = &s->lanes.evaluator.shape;
    const struct lane_choices to = lanes_choices(&s->lanes, j);
    struct share mine = batch_of(s, j);
    int64_t n = d->shape.n, first_picture = mine.first / n;
    choose_pictures(s, &to, d, first_picture, e->pictures);
    for (int64_t k = 0; k < e->lanes; k++) {
        bool primal = k < e->pictures;
        int64_t at = k - e->pictures < mine.count ? k - e->pictures : mine.count - 1, tangent = mine.first + at;
        int64_t b = primal ? (first_picture + k) % d->shape.batch : tangent / n;
        to.caption[k] = d->caption[b];
        to.direction[k] = primal ? 0 : (int32_t)draws_direction(d, b, tangent % n + 1);
        to.picture_of[k] = (int32_t)(primal ? k : b - first_picture);
    }
}

static void repeat_first(const struct step *s)
{
    const struct evaluator_shape *e = &s->lanes.evaluator.shape;
    const struct lane_choices to = lanes_choices(&s->lanes, 0);
    int64_t first = e->tangents ? e->pictures : 0, last = e->lanes - 1;
    to.caption[last] = to.caption[first];
    to.direction[last] = to.direction[first];
    to.picture_of[last] = to.picture_of[first];
}

/* A batch that would reach past the end of the share evaluates the share's last piece again, so that all batches have
 * the same shape. */
static void choose(const struct step *s, const struct draws *d, bool repeat)
{
    for (int64_t j = 0; j < s->lanes.batches; j++) {
        if (s->lanes.evaluator.shape.tangents)
            choose_tangents(s, d, j);
        else
            choose_differences(s, d, j);
    }
    if (repeat)
        repeat_first(s);
}

/* -------------------------------------------------------------------------------- the programs */

/* Are the directions the basis' rows, one a direction? */
static bool takes_all(const struct step *s)
{
    return s->shape.coordinates && s->shape.rank == s->parts.config->zo.n;
}

static void draw(const struct step *s)
{
    lanes_draw(&s->parts, s->posterior, s->number, STREAM_POSTERIOR);
    lanes_draw(&s->parts, s->noise, s->number, STREAM_NOISE);
    bool mixes = s->shape.rank > 0;
    if (!takes_all(s))
        op_draw(s->parts.device, mixes ? s->weights : s->directions, s->number, (uint64_t)s->parts.config->seed,
                STREAM_DIRECTION + 1);
    if (mixes)
        op_mix(s->parts.device, s->directions, s->weights, s->basis);
}

/* Puts what `count` lanes of a batch from `first` on have found into as many slots from `slot` on. */
static void put_slots(const struct step *s, int64_t slot, int64_t first, int64_t count)
{
    const struct evaluator *e = &s->lanes.evaluator;
    if (count > 0)
        op_copy(s->parts.device, tensor_lanes(s->slots, slot, count), tensor_lanes(e->losses, first, count),
                (struct tensor){0});
    if (count > 0 && e->shape.predictions)
        op_copy(s->parts.device, tensor_lanes(s->predictions, slot, count), tensor_lanes(e->predictions, first, count),
                (struct tensor){0});
}

/* Slopes, and the losses of those pictures whose first tangent is among them. */
static void put_tangents(const struct step *s, struct share mine)
{
    int64_t n = s->parts.config->zo.n, first_picture = mine.first / n, end = mine.first + mine.count;
    int64_t begins = (mine.first + n - 1) / n, after = (end + n - 1) / n;
    put_slots(s, begins, begins - first_picture, after - begins);
    put_slots(s, s->parts.config->optim.batch_size + mine.first, s->lanes.evaluator.shape.pictures, mine.count);
}

/* Evaluates batch j of this rank's pieces, from the draws to losses and slopes in their slots. */
static void evaluate_batch(const struct step *s, int64_t j)
{
    const struct evaluator *e = &s->lanes.evaluator;
    const struct lane_draws draws = {s->posterior, s->noise, s->embedding, s->directions};
    lanes_prepare(&s->lanes, j, &draws);
    evaluator_forward(e);
    struct share mine = batch_of(s, j);
    if (e->shape.tangents)
        put_tangents(s, mine);
    else
        put_slots(s, mine.first, 0, mine.count);
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
    const struct step_slots slots = step_slots_of(c);
    const struct update u = {
        .embedding = s->embedding,
        .m = s->m,
        .v = s->v,
        .gradient = s->gradient,
        .slots = s->slots,
        .directions = s->shape.coordinates ? s->weights : s->directions,
        .basis = s->shape.coordinates ? s->basis : (struct tensor){0},
        .coordinates = s->coordinates,
        .removed = s->removed,
        .removed_rows = s->removed_rows,
        .rates = s->rates,
        .n = slots.n,
        .batch = slots.batch,
        .sides = slots.sides,
        .tangents = slots.tangents,
        .eps = slots.eps,
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

/* All that a step begins with, in one copy; rates NULL: as they were. */
static void write_step(struct step *s, int64_t number, const struct draws *draws, const double *notes,
                       const double *rates, bool repeat)
{
    double *slots = step_block_at(&s->block, s->slots);
    memcpy(step_block_at(&s->block, s->number), &number, sizeof number);
    if (rates)
        memcpy(step_block_at(&s->block, s->rates), rates, RATES * sizeof *rates);
    if (s->share.count > 0)
        choose(s, draws, repeat);
    memset(slots, 0, (size_t)s->shape.lanes * sizeof *slots);
    memcpy(slots + s->shape.lanes, notes, (size_t)s->shape.notes * sizeof *notes);
    step_block_write(&s->block, s->number, s->slots);
}

struct error step_evaluate(struct step *s, int64_t number, const struct draws *draws, const double *notes, bool repeat)
{
    write_step(s, number, draws, notes, NULL, repeat);
    return program_run(s->evaluate);
}

struct error step_repeat(struct step *s, const float *embedding)
{
    device_write(s->parts.device, s->embedding, embedding);
    return program_run(s->evaluate ? s->evaluate : s->whole);
}

struct error step_update(struct step *s, const double rates[3])
{
    memcpy(step_block_at(&s->block, s->rates), rates, RATES * sizeof *rates);
    step_block_write(&s->block, s->rates, s->rates);
    return program_run(s->update);
}

struct error step_whole(struct step *s, int64_t number, const struct draws *draws, const double *notes,
                        const double rates[3])
{
    write_step(s, number, draws, notes, rates, false);
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
    if (state->basis.rank == 0 || state->basis.rank != s->shape.rank)
        return;
    device_write(d, s->basis, state->basis.rows);
    if (s->units)
        device_write(d, s->weights, s->units);
}

const double *step_read(struct step *s)
{
    step_block_read(&s->block, s->slots, s->v);
    return step_block_at(&s->block, s->slots);
}

void step_take(const struct step *s, double *gradient, struct state *state)
{
    size_t dim = (size_t)state->dim, moments = (size_t)state_moments(state);
    memcpy(gradient, step_block_at(&s->block, s->gradient), dim * sizeof *gradient);
    memcpy(state->embedding, step_block_at(&s->block, s->embedding), dim * sizeof *state->embedding);
    memcpy(state->m, step_block_at(&s->block, s->m), moments * sizeof *state->m);
    memcpy(state->v, step_block_at(&s->block, s->v), moments * sizeof *state->v);
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

/* What mixes directions. Each place of a direction, of which there are `places`, has as many weights as the basis has
 * rows. */
static struct error keep_mixture(struct step *s, int64_t vectors, int64_t width)
{
    const struct step_shape *shape = &s->shape;
    struct device *d = s->parts.device;
    bool coordinates = shape->coordinates;
    int64_t rank = shape->rank, places = coordinates ? 1 : vectors;
    if (rank == 0)
        return ok();
    TRY(device_alloc_state(d, F32, shape->directions, 1, places, rank, &s->weights));
    TRY(device_alloc_state(d, F32, rank, 1, 1, vectors * width / places, &s->basis));
    if (!coordinates)
        return ok();
    TRY(device_alloc_state(d, F64, 1, 1, 1, rank, &s->coordinates));
    if (!takes_all(s))
        return ok();
    s->units = memory_alloc(shape->directions * rank, sizeof *s->units);
    for (int64_t i = 0; i < shape->directions && s->units; i++)
        s->units[i * rank + i % rank] = 1;
    return s->units ? ok() : error_memory("a step's directions");
}

/* What host and device exchange in a step: to the device from the number to the slots, back from the slots to v. */
static struct error keep_block(struct step *s, int64_t integers, int64_t vectors, int64_t width)
{
    const struct step_shape *shape = &s->shape;
    int64_t places = shape->coordinates ? 1 : vectors, moments = shape->coordinates ? shape->rank : width;
    const struct block_part parts[] = {{&s->number, I64, 1, 1, 1, 1},
                                       {&s->rates, F64, 1, 1, 1, RATES},
                                       {&s->integers, I32, 1, 1, 1, integers},
                                       {&s->slots, F64, shape->lanes + shape->notes, 1, 1, 1},
                                       {&s->gradient, F64, 1, 1, vectors, width},
                                       {&s->embedding, F32, 1, 1, vectors, width},
                                       {&s->m, F32, 1, 1, places, moments},
                                       {&s->v, F32, 1, 1, places, moments}};
    return step_block_new(&s->block, s->parts.device, parts, sizeof parts / sizeof *parts);
}

static bool keeps_predictions(const struct step *s)
{
    return s->parts.config->optim.method == METHOD_GAUSS_NEWTON;
}

static struct error keep_tensors(struct step *s, int64_t integers)
{
    const struct dataset *set = s->parts.dataset;
    const struct config *c = s->parts.config;
    struct device *d = s->parts.device;
    const struct step_shape *shape = &s->shape;
    int64_t vectors = c->token.vectors, width = s->parts.text->config.width, batch = c->optim.batch_size;
    TRY(keep_block(s, integers, vectors, width));
    TRY(device_alloc_state(d, F32, batch, set->height, set->width, set->channels, &s->posterior));
    TRY(device_alloc_state(d, F32, batch, set->height, set->width, set->channels, &s->noise));
    TRY(device_alloc_state(d, F32, shape->directions, 1, vectors, width, &s->directions));
    TRY(keep_mixture(s, vectors, width));
    TRY(device_alloc_state(d, F32, shape->tau > 1 ? shape->tau - 1 : 1, 1, vectors, width, &s->removed));
    TRY(device_alloc_state(d, I32, 1, 1, 1, 1, &s->removed_rows));
    if (!keeps_predictions(s))
        return ok();
    return device_alloc_state(d, F32, shape->lanes, set->height, set->width, set->channels, &s->predictions);
}

/* As few batches as LANES_AT_ONCE allows, all of one size. */
static struct lanes_shape shape_differences(const struct step *s)
{
    int64_t batches = (s->share.count + LANES_AT_ONCE - 1) / LANES_AT_ONCE;
    int64_t lanes = (s->share.count + batches - 1) / batches, batch = s->parts.config->optim.batch_size;
    return (struct lanes_shape){.batches = batches, .lanes = lanes, .pictures = lanes < batch ? lanes : batch};
}

static struct lanes_shape shape_tangents(const struct step *s)
{
    const struct tangent_batches b = tangent_batches_of(s->share, s->parts.config->zo.n, LANES_AT_ONCE);
    return (struct lanes_shape){b.batches, b.tangents + b.pictures, b.pictures, .tangents = true};
}

/* Of an empty share: none. */
static struct lanes_shape shape_lanes(const struct step *s)
{
    if (s->share.count == 0)
        return (struct lanes_shape){0};
    struct lanes_shape shape =
        s->parts.config->zo.derivative == DERIVATIVE_TANGENT ? shape_tangents(s) : shape_differences(s);
    shape.predictions = keeps_predictions(s);
    return shape;
}

static struct error make(struct step *s, const struct lane_sources *sources, bool whole)
{
    struct device *d = s->parts.device;
    struct lanes_shape shape = shape_lanes(s);
    TRY(keep_tensors(s, lanes_integers(&shape, s->parts.dataset)));
    shape.integers = s->integers;
    shape.contents = step_block_at(&s->block, s->integers);
    if (s->share.count > 0)
        TRY(lanes_new(&s->lanes, &s->parts, sources, &shape));
    device_number_products(d);
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
    struct tensor *const kept[] = {&s->posterior, &s->noise,        &s->directions,  &s->weights,    &s->basis,
                                   &s->removed,   &s->removed_rows, &s->coordinates, &s->predictions};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        device_free_state(s->parts.device, kept[i]);
    step_block_free(&s->block);
    memory_free(s->units);
    *s = (struct step){0};
}
