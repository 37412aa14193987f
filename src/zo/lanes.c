#include "zo/lanes.h"

#include <string.h>

#include "base/memory.h"

/* -------------------------------------------------------------------------------- what lanes choose from */

static struct error write_and_free(struct device *d, struct tensor to, float *from)
{
    device_write(d, to, from);
    struct error e = device_wait(d); // until then the device may read it
    memory_free(from);
    return e;
}

/* Posterior means and standard deviations of every picture, then of every mirrored one. */
static struct error put_moments(struct lane_sources *s, const struct training_parts *parts)
{
    const struct dataset *set = parts->dataset;
    int64_t sides = set->moments[1] ? 2 : 1, places = set->count * set->height * set->width, c = set->channels;
    TRY(device_alloc_state(parts->device, F32, sides * set->count, set->height, set->width, 2 * c, &s->moments));
    float *all = memory_alloc(sides * places * 2 * c, sizeof *all);
    if (!all)
        return error_memory("the pictures' moments");
    for (int64_t i = 0; i < sides * places; i++)
        dataset_moments(set, i / places, i % places, all + i * 2 * c);
    return write_and_free(parts->device, s->moments, all);
}

/* In the order of the moments. */
static struct error put_weights(struct lane_sources *s, const struct training_parts *parts)
{
    const struct dataset *set = parts->dataset;
    int64_t sides = set->weights[1] ? 2 : 1, places = set->count * set->height * set->width;
    if (!set->weights[0])
        return ok();
    TRY(device_alloc_state(parts->device, F32, sides * set->count, set->height, set->width, 1, &s->weights));
    float *all = memory_alloc(sides * places, sizeof *all);
    if (!all)
        return error_memory("the masks");
    for (int64_t m = 0; m < sides; m++)
        memcpy(all + m * places, set->weights[m], (size_t)places * sizeof *all);
    return write_and_free(parts->device, s->weights, all);
}

static struct error put_levels(struct lane_sources *s, const struct training_parts *parts)
{
    const struct noise_schedule *schedule = parts->schedule;
    TRY(device_alloc_state(parts->device, F32, schedule->steps, 1, 1, 2, &s->levels));
    float *all = memory_alloc(schedule->steps * 2, sizeof *all);
    if (!all)
        return error_memory("the noise levels");
    for (int64_t t = 0; t < schedule->steps; t++)
        noise_schedule_levels(schedule, t, all + 2 * t);
    return write_and_free(parts->device, s->levels, all);
}

struct error lane_sources_new(struct lane_sources *s, const struct training_parts *parts)
{
    const struct dataset *set = parts->dataset;
    TRY(device_alloc_state(parts->device, I32, set->captions.count, 1, set->length, 1, &s->captions));
    device_write(parts->device, s->captions, set->ids);
    TRY(put_moments(s, parts));
    TRY(put_weights(s, parts));
    return put_levels(s, parts);
}

void lane_sources_free(struct lane_sources *s, struct device *device)
{
    device_free_state(device, &s->moments);
    device_free_state(device, &s->weights);
    device_free_state(device, &s->levels);
    device_free_state(device, &s->captions);
}

/* -------------------------------------------------------------------------------- choices */

enum { CHOICE = 3 }; /* integers of a picture */

/* For each batch, one after the other: choice [pictures][3], each lane's caption [lanes], its direction [lanes] and
 * its picture [lanes], and with masks each picture's row of the weights [pictures]. */
static int64_t integers_of_batch(int64_t pictures, int64_t lanes, bool masked)
{
    return (CHOICE + masked) * pictures + 3 * lanes;
}

int64_t lanes_integers(const struct lanes_shape *s, const struct dataset *dataset)
{
    return s->batches * integers_of_batch(s->pictures, s->lanes, dataset->weights[0]);
}

struct lane_choices lanes_choices(const struct lanes *l, int64_t batch)
{
    const struct evaluator_shape *e = &l->evaluator.shape;
    int32_t *first = l->contents + batch * integers_of_batch(e->pictures, e->lanes, e->masked);
    int32_t *caption = first + CHOICE * e->pictures, *last = caption + 3 * e->lanes;
    return (struct lane_choices){.picture = (int32_t(*)[CHOICE])first,
                                 .mask = e->masked ? last : NULL,
                                 .caption = caption,
                                 .direction = caption + e->lanes,
                                 .picture_of = caption + 2 * e->lanes};
}

void lanes_write(const struct lanes *l)
{
    device_write(l->parts.device, l->integers, l->contents);
}

/* The same integers on the device, as a view [lanes, 1, 1, channels]. */
static struct tensor on_device(const struct lanes *l, const int32_t *contents, int64_t lanes, int64_t channels)
{
    struct tensor t = l->integers;
    t.offset += (contents - l->contents) * dtype_size(I32);
    t.lanes = lanes;
    t.channels = t.row_stride = t.lane_stride = channels;
    return t;
}

/* -------------------------------------------------------------------------------- ops */

void lanes_draw(const struct training_parts *parts, struct tensor y, struct tensor step, uint32_t stream)
{
    y.height *= y.lanes;
    y.lane_stride *= y.lanes;
    y.lanes = 1;
    op_draw(parts->device, y, step, (uint64_t)parts->config->seed, stream);
}

/* What a lane's word is: the embedding, moved along a direction; or, of a tangent lane, the direction. */
static void prepare_rows(const struct lanes *l, const struct lane_choices *c, const struct lane_draws *draws)
{
    struct device *d = l->parts.device;
    const struct evaluator *e = &l->evaluator;
    int64_t primal = e->shape.pictures, tangents = e->shape.lanes - primal;
    if (!e->shape.tangents) {
        op_perturb(d, e->rows, draws->embedding, draws->directions, on_device(l, c->direction, 1, e->shape.lanes),
                   l->parts.config->zo.eps);
        return;
    }
    struct tensor word = draws->embedding;
    word.lanes = primal;
    word.lane_stride = 0;
    op_copy(d, tensor_lanes(e->rows, 0, primal), word, (struct tensor){0});
    op_copy(d, tensor_lanes(e->rows, primal, tangents), draws->directions,
            on_device(l, c->direction + primal, 1, tangents));
}

void lanes_prepare(const struct lanes *l, int64_t batch, const struct lane_draws *draws)
{
    struct device *d = l->parts.device;
    const struct evaluator *e = &l->evaluator;
    const struct lane_choices c = lanes_choices(l, batch);
    const struct add_noise n = {.moments = l->sources->moments,
                                .posterior = draws->posterior,
                                .noise = draws->noise,
                                .levels = l->sources->levels,
                                .choice = on_device(l, *c.picture, e->shape.pictures, CHOICE),
                                .scaling = l->parts.scaling_factor,
                                .velocity = l->parts.schedule->prediction == PREDICT_V};
    op_add_noise(d, e->in.sample, e->target, e->in.timestep, &n);
    if (e->shape.masked)
        op_copy(d, e->mask, l->sources->weights, on_device(l, c.mask, 1, e->shape.pictures));
    op_copy(d, e->ids, l->sources->captions, on_device(l, c.caption, 1, e->shape.lanes));
    prepare_rows(l, &c, draws);
    op_copy(d, e->in.map, on_device(l, c.picture_of, 1, e->shape.lanes), (struct tensor){0});
}

/* -------------------------------------------------------------------------------- making, freeing */

static struct error keep_integers(struct lanes *l, int64_t count)
{
    TRY(device_alloc_state(l->parts.device, I32, 1, 1, 1, count, &l->integers));
    l->contents = memory_alloc(count, sizeof *l->contents);
    return l->contents ? ok() : error_memory("the lanes' choices");
}

struct error lanes_new(struct lanes *l, const struct training_parts *parts, const struct lane_sources *sources,
                       const struct lanes_shape *s)
{
    *l = (struct lanes){.parts = *parts,
                        .sources = sources,
                        .batches = s->batches,
                        .integers = s->integers,
                        .contents = s->contents,
                        .shared = s->integers.base};
    const struct dataset *set = parts->dataset;
    const struct evaluator_shape shape = {.lanes = s->lanes,
                                          .pictures = s->pictures,
                                          .tangents = s->tangents,
                                          .predictions = s->predictions,
                                          .masked = set->weights[0],
                                          .height = set->height,
                                          .width = set->width,
                                          .channels = set->channels,
                                          .length = set->length,
                                          .vectors = parts->config->token.vectors,
                                          .dim = parts->text->config.width,
                                          .first_id = parts->first_id};
    struct error e = evaluator_new(&l->evaluator, parts->device, parts->text, parts->unet, &shape);
    if (e.code == ERROR_NONE && !l->shared)
        e = keep_integers(l, lanes_integers(s, set));
    if (e.code != ERROR_NONE)
        lanes_free(l);
    return e;
}

void lanes_free(struct lanes *l)
{
    if (!l->parts.device)
        return;
    evaluator_free(&l->evaluator);
    if (!l->shared) {
        device_free_state(l->parts.device, &l->integers);
        memory_free(l->contents);
    }
    *l = (struct lanes){0};
}
