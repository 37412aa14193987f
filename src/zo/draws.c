#include "zo/draws.h"

#include "base/memory.h"
#include "base/rng.h"

struct draw_shape draw_shape_of(const struct config *config, int64_t pictures, int64_t captions, int64_t height,
                                int64_t width, int64_t channels, int64_t dim)
{
    int64_t pictures_with_own = config->zo.directions_per == DIRECTIONS_PER_PICTURE ? config->optim.batch_size : 1;
    return (struct draw_shape){
        .seed = (uint64_t)config->seed,
        .pictures = pictures,
        .repeats = config->data.repeats,
        .captions = captions,
        .flip = config->data.flip,
        .batch = config->optim.batch_size,
        .height = height,
        .width = width,
        .channels = channels,
        .n = config->zo.n,
        .directions = config->zo.n * pictures_with_own,
        .dim = dim,
        .timesteps = {(int32_t)config->zo.timesteps[0], (int32_t)config->zo.timesteps[1]},
        .even = config->zo.timestep_order == TIMESTEPS_EVEN,
    };
}

struct error draws_new(struct draws *d, const struct draw_shape *shape)
{
    *d = (struct draws){.shape = *shape, .epoch = -1};
    d->picture = memory_alloc(shape->batch, sizeof *d->picture);
    d->flip = memory_alloc(shape->batch, sizeof *d->flip);
    d->caption = memory_alloc(shape->batch, sizeof *d->caption);
    d->timestep = memory_alloc(shape->batch, sizeof *d->timestep);
    d->order = memory_alloc(shape->pictures * shape->repeats, sizeof *d->order);
    if (d->picture && d->flip && d->caption && d->timestep && d->order)
        return ok();
    draws_free(d);
    return error_memory("a step's draws");
}

void draws_free(struct draws *d)
{
    memory_free(d->picture);
    memory_free(d->flip);
    memory_free(d->caption);
    memory_free(d->timestep);
    memory_free(d->order);
    *d = (struct draws){0};
}

int64_t draws_direction(const struct draws *d, int64_t b, int64_t i)
{
    return (d->shape.directions > d->shape.n ? b * d->shape.n : 0) + i - 1;
}

static void shuffle(struct draws *d, int64_t epoch)
{
    int64_t count = d->shape.pictures * d->shape.repeats;
    for (int64_t i = 0; i < count; i++)
        d->order[i] = (int32_t)i;
    for (int64_t i = count - 1; i > 0; i--) {
        int32_t j = rng_integer(d->shape.seed, (uint64_t)epoch, STREAM_PICTURE, (uint64_t)i, 0, (int32_t)i + 1);
        int32_t other = d->order[j];
        d->order[j] = d->order[i];
        d->order[i] = other;
    }
    d->epoch = epoch;
}

/* The picture at position `sample` (from 0) of the endless sequence of epochs. */
static int32_t picture_of(struct draws *d, int64_t sample)
{
    int64_t count = d->shape.pictures * d->shape.repeats;
    if (sample / count != d->epoch)
        shuffle(d, sample / count);
    return (int32_t)(d->order[sample % count] % d->shape.pictures);
}

void draws_make(struct draws *d, int64_t step)
{
    const struct draw_shape *s = &d->shape;
    uint64_t at = (uint64_t)step;
    for (int64_t b = 0; b < s->batch; b++) {
        int64_t sample = (step - 1) * s->batch + b;
        uint64_t index = (uint64_t)b;
        d->picture[b] = picture_of(d, sample);
        d->flip[b] = s->flip ? (int32_t)(rng_word(s->seed, at, STREAM_FLIP, index) >> 31) : 0;
        d->caption[b] =
            s->captions ? rng_integer(s->seed, at, STREAM_CAPTION, index, 0, (int32_t)s->captions) : d->picture[b];
        d->timestep[b] = s->even ? rng_even(s->seed, (uint64_t)sample, s->timesteps[0], s->timesteps[1])
                                 : rng_integer(s->seed, at, STREAM_TIMESTEP, index, s->timesteps[0], s->timesteps[1]);
    }
}
