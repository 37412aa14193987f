#include "pipeline/generation.h"

#include "base/memory.h"
#include "cluster/signals.h"

/* -------------------------------------------------------------------------------- ranks side by side */

/* One half of the work, on all ranks. */
struct half {
    struct generation *generation;
    int64_t count;
    float **latents; /* [count] of [height, width, channels], of this rank's pictures */
    bool over;       /* the ranks agreed on an error, the same on all */
};

/* Called after every call of a network, on every rank, also on those with nothing to do: shares how it went. */
static struct error meet(struct half *h, struct error mine)
{
    const struct pipeline *p = h->generation->pipeline;
    bool stop = !p->simulated && signals_stop_requested();
    comm_tick(p->comm);
    struct error e = comm_meet(p->comm, mine, &stop);
    if (e.code == ERROR_NONE && stop)
        e = (struct error){ERROR_PREEMPTED, "stopped by a signal while drawing; run again with --resume to continue"};
    h->over = e.code != ERROR_NONE;
    return e;
}

/* Reports a failure of this rank at the others' next meeting; all return the same error. */
static struct error end_half(struct half *h, struct error mine)
{
    return mine.code != ERROR_NONE && !h->over ? meet(h, mine) : mine;
}

/* -------------------------------------------------------------------------------- latents */

static int64_t steps_of(const struct generation *g)
{
    const struct pipeline *p = g->pipeline;
    return p->simulated ? sampler_least_steps(&p->schedule, g->sampler) : g->steps;
}

int64_t generation_calls(const struct generation *g)
{
    return sampler_calls(&g->pipeline->schedule, g->sampler, steps_of(g));
}

static struct error tick(void *arg, int64_t call, int64_t calls)
{
    struct half *h = arg;
    const struct generation *g = h->generation;
    if (g->tick)
        TRY(g->tick(g->arg, call, calls));
    return meet(h, ok());
}

/* This rank has nothing to do while the others generate one more picture. */
static struct error look_on(struct half *h)
{
    int64_t calls = generation_calls(h->generation);
    for (int64_t call = 0; call < calls; call++)
        TRY(meet(h, ok()));
    return ok();
}

static struct error denoise(struct half *h, struct denoiser *d, int32_t *ids, int64_t i)
{
    const struct generation *g = h->generation;
    float *latents = h->latents[i] = memory_alloc(d->numbers, sizeof *latents);
    if (!latents)
        return error_memory("a picture");
    TRY(g->begin(g->arg, i, ids, latents));
    return denoiser_run(d, ids, g->rows, latents, tick, h);
}

static struct error denoise_share(struct half *h)
{
    const struct generation *g = h->generation;
    const struct pipeline *p = g->pipeline;
    const struct denoiser_setup setup = {
        .device = p->device,
        .text = &p->text,
        .unet = &p->unet,
        .schedule = &p->schedule,
        .sampler = g->sampler,
        .steps = steps_of(g),
        .guidance = g->guidance,
        .length = p->text.config.positions,
        .height = g->height,
        .width = g->width,
        .vectors = g->vectors,
        .first_id = g->first_id,
    };
    struct denoiser d;
    TRY(denoiser_new(&d, &setup));
    int32_t *ids = memory_alloc(2 * setup.length, sizeof *ids);
    struct error e = ids ? ok() : error_memory("a prompt");
    for (int64_t first = 0; first < h->count && e.code == ERROR_NONE; first += comm_size(p->comm)) {
        int64_t i = first + comm_rank(p->comm);
        e = i < h->count ? denoise(h, &d, ids, i) : look_on(h);
    }
    memory_free(ids);
    denoiser_free(&d);
    return e;
}

/* -------------------------------------------------------------------------------- pictures */

static struct error decode(const struct half *h, struct decoder *d, int64_t i)
{
    const struct generation *g = h->generation;
    struct picture picture;
    TRY(decoder_run(d, h->latents[i], &picture));
    return g->end(g->arg, i, &picture);
}

static struct error decode_share(struct half *h, const struct vae *vae)
{
    const struct generation *g = h->generation;
    const struct pipeline *p = g->pipeline;
    struct decoder d;
    TRY(decoder_new(&d, p->device, vae, g->height, g->width));
    struct error e = ok();
    for (int64_t first = 0; first < h->count && e.code == ERROR_NONE; first += comm_size(p->comm)) {
        int64_t i = first + comm_rank(p->comm);
        if (i < h->count)
            e = decode(h, &d, i);
        if (e.code == ERROR_NONE)
            e = meet(h, ok());
    }
    decoder_free(&d);
    return e;
}

/* -------------------------------------------------------------------------------- both halves */

static struct error make_latents(struct generation *g, float **latents, int64_t count)
{
    struct half h = {g, count, latents, false};
    struct error e = end_half(&h, denoise_share(&h));
    if (g->unload)
        pipeline_unload(g->pipeline);
    return e;
}

static struct error make_pictures(struct generation *g, float **latents, int64_t count)
{
    struct half h = {g, count, latents, false};
    struct vae vae;
    TRY(pipeline_vae(g->pipeline, g->pipeline->comm, false, true, &vae));
    struct error e = end_half(&h, decode_share(&h, &vae));
    vae_free(&vae);
    return e;
}

int64_t generation_bytes(const struct generation *g)
{
    return g->latents_bytes > g->pictures_bytes ? g->latents_bytes : g->pictures_bytes;
}

struct error generation_run(struct generation *g, int64_t count)
{
    struct pipeline *p = g->pipeline;
    float **latents = memory_alloc(count, sizeof *latents);
    struct error e = comm_agree(p->comm, latents ? ok() : error_memory("the latents"));
    if (e.code == ERROR_NONE)
        e = make_latents(g, latents, count);
    g->latents_bytes = device_memory(p->device).most;
    if (g->measure)
        device_memory_reset_peak(p->device);
    if (e.code == ERROR_NONE)
        e = make_pictures(g, latents, count);
    g->pictures_bytes = device_memory(p->device).most;
    for (int64_t i = 0; i < count && latents; i++)
        memory_free(latents[i]);
    memory_free(latents);
    return e;
}
