#include "pipeline/generation.h"

#include <stdio.h>

#include "base/memory.h"
#include "base/progress.h"
#include "cluster/signals.h"

/* -------------------------------------------------------------------------------- ranks side by side */

/* Decoding takes roughly as long as so many evaluations: three at Stable Diffusion 1.5's shapes. */
enum { DECODING = 3 };

/* A run of a generation, on all ranks. */
struct run {
    struct generation *generation;
    int64_t count;
    int64_t calls;        /* of the UNet for a picture */
    float **latents;      /* [count] of [height, width, channels], of this rank's pictures */
    bool over;            /* the ranks agreed on an error, the same on all */
    struct error spoiled; /* the first of this rank's pictures that is not a number */

    struct progress progress; /* of a half */
    int64_t called;           /* the UNet on this rank, in all */
};

/* Called after every call of a network, on every rank, also on those with nothing to do: shares how it went. */
static struct error meet(struct run *r, struct error mine)
{
    const struct pipeline *p = r->generation->pipeline;
    bool stop = !p->simulated && signals_should_stop();
    comm_tick(p->comm);
    struct error e = comm_meet(p->comm, mine, &stop);
    if (e.code == ERROR_NONE && stop)
        e = error_preempted("stopped by a signal while generating pictures; run again with --resume to continue");
    r->over = e.code != ERROR_NONE;
    return e;
}

/* At the end of a half: reports a failure of this rank at the others' next meeting; all return the same error. */
static struct error end_half(struct run *r, struct error mine)
{
    return mine.code != ERROR_NONE && !r->over ? meet(r, mine) : mine;
}

/* -------------------------------------------------------------------------------- latents */

static int64_t steps_of(const struct generation *g)
{
    const struct pipeline *p = g->pipeline;
    return p->simulated ? sampler_least_steps(&p->schedule, g->sampler) : g->steps;
}

static int64_t calls_of(const struct generation *g)
{
    return sampler_calls(&g->pipeline->schedule, g->sampler, steps_of(g));
}

static int64_t lanes_of(const struct generation *g)
{
    return g->guidance > 1 ? 2 : 1;
}

/* How many pictures a rank makes, if it makes the most. */
static int64_t rounds_of(const struct generation *g, int64_t count)
{
    int size = comm_size(g->pipeline->comm);
    return (count + size - 1) / size;
}

double generation_cost(const struct generation *g, int64_t count)
{
    return (double)(rounds_of(g, count) * (calls_of(g) * lanes_of(g) + DECODING));
}

/* The first rank, which makes a picture in every round, shows how far all are. */
static struct error tick(void *arg, int64_t call, int64_t calls)
{
    struct run *r = arg;
    const struct generation *g = r->generation;
    int64_t lanes = lanes_of(g), rounds = rounds_of(g, r->count),
            done = ++r->called / calls * comm_size(g->pipeline->comm);
    char note[64];
    snprintf(note, sizeof note, "call %lld of %lld", (long long)call, (long long)calls);
    progress_weigh(&r->progress, (double)(r->called * lanes), (double)((rounds * calls - r->called) * lanes),
                   (double)(rounds * DECODING));
    progress_step(&r->progress, done < r->count ? done : r->count, note);
    return meet(r, ok());
}

/* This rank has nothing to do while the others generate one more picture. */
static struct error idle(struct run *r)
{
    for (int64_t call = 0; call < r->calls; call++)
        TRY(meet(r, ok()));
    return ok();
}

static struct error denoise(struct run *r, struct denoiser *d, int32_t *ids, int64_t i)
{
    const struct generation *g = r->generation;
    float *latents = r->latents[i] = memory_alloc(d->numbers, sizeof *latents);
    if (!latents)
        return error_memory("a picture");
    TRY(g->begin(g->arg, i, ids, latents));
    return denoiser_run(d, g->seed + (uint64_t)i, ids, g->rows, latents, tick, r);
}

static struct error denoise_pictures(struct run *r, struct denoiser *d)
{
    const struct pipeline *p = r->generation->pipeline;
    int32_t *ids = memory_alloc(2 * r->generation->chunks * r->generation->length, sizeof *ids);
    struct error e = ids ? ok() : error_memory("a prompt");
    progress_phase(&r->progress, "generating pictures", r->count, "");
    for (int64_t first = 0; first < r->count && e.code == ERROR_NONE; first += comm_size(p->comm)) {
        int64_t i = first + comm_rank(p->comm);
        e = i < r->count ? denoise(r, d, ids, i) : idle(r);
    }
    progress_end(&r->progress);
    memory_free(ids);
    return e;
}

static struct error denoise_share(struct run *r)
{
    const struct generation *g = r->generation;
    const struct pipeline *p = g->pipeline;
    const struct denoiser_setup setup = {
        .device = p->device,
        .text = &p->text,
        .unet = &p->unet,
        .schedule = &p->schedule,
        .sampler = g->sampler,
        .steps = steps_of(g),
        .guidance = g->guidance,
        .length = g->length,
        .chunks = g->chunks,
        .weights = p->simulated ? NULL : g->weights,
        .height = g->height,
        .width = g->width,
        .vectors = g->vectors,
        .first_id = g->first_id,
    };
    struct denoiser d;
    TRY(denoiser_new(&d, &setup));
    struct error e = denoise_pictures(r, &d);
    denoiser_free(&d);
    return e;
}

/* -------------------------------------------------------------------------------- pictures */

static struct error decode(struct run *r, struct decoder *d, int64_t i)
{
    const struct generation *g = r->generation;
    struct picture picture = {0};
    bool good;
    TRY(decoder_run(d, r->latents[i], &picture, &good));
    if (!good && !g->pipeline->simulated) { // the others may be
        r->spoiled = error_first(r->spoiled, g->spoiled(g->arg, i));
        return ok();
    }
    if (!g->pipeline->simulated)
        return g->end(g->arg, i, &picture);
    picture_free(&picture);
    return ok();
}

static struct error decode_pictures(struct run *r, struct decoder *d)
{
    const struct comm *comm = r->generation->pipeline->comm;
    struct error e = ok();
    progress_phase(&r->progress, "decoding pictures", r->count, "");
    for (int64_t first = 0; first < r->count && e.code == ERROR_NONE; first += comm_size(comm)) {
        int64_t i = first + comm_rank(comm), done = first + comm_size(comm);
        if (i < r->count)
            e = decode(r, d, i);
        if (e.code == ERROR_NONE)
            e = meet(r, ok());
        progress_step(&r->progress, done < r->count ? done : r->count, "");
    }
    progress_end(&r->progress);
    return e;
}

static struct error decode_share(struct run *r, const struct vae *vae)
{
    const struct generation *g = r->generation;
    const struct pipeline *p = g->pipeline;
    struct decoder d;
    TRY(decoder_new(&d, p->device, vae, g->height, g->width));
    struct error e = decode_pictures(r, &d);
    decoder_free(&d);
    return e;
}

/* -------------------------------------------------------------------------------- both halves */

static struct error make_pictures(struct run *r)
{
    struct pipeline *p = r->generation->pipeline;
    struct vae vae;
    TRY(pipeline_vae(p, p->comm, false, true, &vae));
    struct error e = end_half(r, decode_share(r, &vae));
    vae_free(&vae);
    TRY(e);
    e = comm_agree(p->comm, r->spoiled);
    r->generation->only_spoiled = e.code != ERROR_NONE;
    return e;
}

int64_t generation_bytes(const struct generation *g)
{
    return g->latents_bytes > g->pictures_bytes ? g->latents_bytes : g->pictures_bytes;
}

struct error generation_run(struct generation *g, int64_t count)
{
    struct pipeline *p = g->pipeline;
    struct run r = {
        .generation = g, .count = count, .calls = calls_of(g), .latents = memory_alloc(count, sizeof *r.latents)};
    struct error e = comm_agree(p->comm, r.latents ? ok() : error_memory("the latents"));
    if (e.code == ERROR_NONE)
        e = end_half(&r, denoise_share(&r));
    if (g->unload)
        pipeline_unload(p);
    g->latents_bytes = device_memory(p->device).most;
    if (g->measure)
        device_memory_reset_peak(p->device);
    if (e.code == ERROR_NONE)
        e = make_pictures(&r);
    g->pictures_bytes = device_memory(p->device).most;
    for (int64_t i = 0; i < count && r.latents; i++)
        memory_free(r.latents[i]);
    memory_free(r.latents);
    return e;
}
