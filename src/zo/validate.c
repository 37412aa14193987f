#include "zo/validate.h"

#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
#include "base/rng.h"

/* The noise of all draws is drawn anew for each batch: that takes no time compared with the networks, which then use
 * the same memory. */
static struct error evaluate_body(void *arg)
{
    const struct validation *v = arg;
    const struct evaluator_shape *shape = &v->lanes.evaluator.shape;
    struct device *d = v->lanes.parts.device;
    struct tensor noise = device_alloc(d, F32, v->evaluations, shape->height, shape->width, shape->channels);
    lanes_draw(&v->lanes.parts, noise, v->step_zero, STREAM_NOISE);
    // direction 0, the embedding itself, is the only one
    const struct lane_draws draws = {.noise = noise, .embedding = v->embedding, .directions = v->embedding};
    lanes_prepare(&v->lanes, 0, &draws);
    device_free(d, &noise);
    evaluator_forward(&v->lanes.evaluator);
    return ok();
}

/* Lanes beyond the last draw evaluate it again. */
static void choose(const struct validation *v, int64_t first, int64_t end)
{
    const struct config *c = v->lanes.parts.config;
    const struct dataset *set = v->lanes.parts.dataset;
    uint64_t seed = (uint64_t)c->seed;
    struct lane_choices to = lanes_choices(&v->lanes, 0);
    for (int64_t k = 0; k < v->lanes.evaluator.shape.lanes; k++) {
        int64_t draw = first + k < end ? first + k : end - 1, picture = dataset_validated(set, draw);
        int32_t *choice = to.picture[k];
        choice[0] = (int32_t)picture;
        choice[1] = rng_integer(seed, 0, STREAM_TIMESTEP, (uint64_t)draw, (int32_t)c->zo.timesteps[0],
                                (int32_t)c->zo.timesteps[1]);
        choice[2] = (int32_t)draw;
        if (to.mask)
            to.mask[k] = choice[0];
        to.caption[k] = set->caption_per_picture
                            ? (int32_t)picture
                            : rng_integer(seed, 0, STREAM_CAPTION, (uint64_t)draw, 0, (int32_t)set->captions.count);
        to.direction[k] = 0;
        to.picture_of[k] = (int32_t)k;
    }
}

static struct error evaluate_share(struct validation *v, struct share share, struct progress *progress)
{
    struct device *d = v->lanes.parts.device;
    int64_t at_once = v->lanes.evaluator.shape.lanes, end = share.first + share.count;
    for (int64_t first = share.first; first < end; first += at_once) {
        choose(v, first, end);
        lanes_write(&v->lanes);
        TRY(program_run(v->program));
        device_read(d, v->losses + first,
                    tensor_lanes(v->lanes.evaluator.losses, 0, end - first < at_once ? end - first : at_once));
        TRY(device_wait(d));
        int64_t done = (end - first < at_once ? end : first + at_once) - share.first;
        progress_step(progress, v->evaluations * done / share.count, ""); // as far as the other ranks keep pace
        comm_tick(v->lanes.parts.comm);
    }
    return ok();
}

struct error validation_loss(struct validation *v, const float *embedding, struct share share, double *loss)
{
    struct comm *comm = v->lanes.parts.comm;
    struct progress progress;
    memset(v->losses, 0, (size_t)v->evaluations * sizeof *v->losses);
    device_write(v->lanes.parts.device, v->embedding, embedding);
    progress_phase(&progress, "validating", v->evaluations, "");
    struct error e = comm_agree(comm, evaluate_share(v, share, &progress));
    if (e.code == ERROR_NONE)
        e = comm_sum(comm, v->losses, v->evaluations);
    progress_end(&progress);
    TRY(e);
    double sum = 0;
    for (int64_t i = 0; i < v->evaluations; i++)
        sum += v->losses[i];
    *loss = sum / (double)v->evaluations;
    return ok();
}

static struct error make(struct validation *v, const struct training_parts *parts, const struct lane_sources *sources,
                         int64_t lanes)
{
    struct device *d = parts->device;
    const struct lanes_shape shape = {.batches = 1, .lanes = lanes, .pictures = lanes};
    TRY(lanes_new(&v->lanes, parts, sources, &shape));
    TRY(device_alloc_state(d, I64, 1, 1, 1, 1, &v->step_zero));
    TRY(device_alloc_state(d, F32, 1, 1, parts->config->token.vectors, parts->text->config.width, &v->embedding));
    v->losses = memory_alloc(v->evaluations, sizeof *v->losses);
    if (!v->losses)
        return error_memory("the validation losses");
    return program_new(d, evaluate_body, v, &v->program);
}

struct error validation_new(struct validation *v, const struct training_parts *parts,
                            const struct lane_sources *sources, int64_t evaluations, int64_t lanes)
{
    *v = (struct validation){.evaluations = evaluations};
    struct error e = make(v, parts, sources, lanes);
    if (e.code != ERROR_NONE)
        validation_free(v);
    return e;
}

void validation_free(struct validation *v)
{
    struct device *d = v->lanes.parts.device;
    if (!d)
        return;
    program_free(v->program);
    device_free_state(d, &v->step_zero);
    device_free_state(d, &v->embedding);
    lanes_free(&v->lanes);
    memory_free(v->losses);
    *v = (struct validation){0};
}
