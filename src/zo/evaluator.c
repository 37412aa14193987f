#include "zo/evaluator.h"

#include <stddef.h>

void evaluator_forward(const struct evaluator *e)
{
    struct device *d = e->device;
    struct unet_input in = e->in;
    const struct tangents tangents = {.primal = e->shape.pictures, .of = in.map, .scale = e->text->tangent_scale};
    if (e->shape.tangents)
        tangents_begin(d, &tangents);
    in.hidden = text_encoder_forward(d, e->text, e->ids, e->rows, e->shape.first_id);
    struct tensor predicted = unet_forward(d, e->unet, &in);
    op_loss(d, e->losses, predicted, e->target, e->in.map, e->mask);
    tangents_end(d);
    if (e->shape.predictions)
        op_copy(d, e->predictions, predicted, (struct tensor){0});
    device_free(d, &predicted);
    device_free(d, &in.hidden);
}

static struct error make_inputs(struct evaluator *e)
{
    const struct evaluator_shape *s = &e->shape;
    struct device *d = e->device;
    TRY(device_alloc_state(d, I32, s->lanes, 1, s->length, 1, &e->ids));
    TRY(device_alloc_state(d, F32, s->lanes, 1, s->vectors, s->dim, &e->rows));
    TRY(device_alloc_state(d, F32, s->pictures, s->height, s->width, s->channels, &e->in.sample));
    TRY(device_alloc_state(d, F32, s->pictures, s->height, s->width, s->channels, &e->target));
    TRY(device_alloc_state(d, F32, s->pictures, 1, 1, 1, &e->in.timestep));
    TRY(device_alloc_state(d, I32, 1, 1, 1, s->lanes, &e->in.map));
    if (s->masked)
        TRY(device_alloc_state(d, F32, s->pictures, s->height, s->width, 1, &e->mask));
    if (s->predictions)
        TRY(device_alloc_state(d, F32, s->lanes, s->height, s->width, s->channels, &e->predictions));
    return device_alloc_state(d, F64, s->lanes, 1, 1, 1, &e->losses);
}

struct error evaluator_new(struct evaluator *e, struct device *device, const struct text_encoder *text,
                           const struct unet *unet, const struct evaluator_shape *shape)
{
    *e = (struct evaluator){.device = device, .text = text, .unet = unet, .shape = *shape};
    struct error error = make_inputs(e);
    if (error.code != ERROR_NONE)
        evaluator_free(e);
    return error;
}

void evaluator_free(struct evaluator *e)
{
    if (!e->device)
        return;
    struct tensor *const kept[] = {&e->ids,    &e->rows,   &e->in.sample, &e->target,     &e->in.timestep,
                                   &e->in.map, &e->losses, &e->mask,      &e->predictions};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        device_free_state(e->device, kept[i]);
    *e = (struct evaluator){0};
}
