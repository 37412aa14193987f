#include "pipeline/pictures.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"
#include "cluster/signals.h"
#include "files/file.h"
#include "model/denoiser.h"
#include "text/captions.h"

enum { STEPS = 50, GAP = 4, SMALLEST_CELL = 128 };
static const double guidance = 7.5;

/* One word on one prompt: drawn first as latents, then as a picture. */
struct painting {
    const char *word;
    int64_t vectors;
    int64_t prompt;
    struct picture *out;
    float *latents; /* [numbers of a latent], on the rank that draws it */
};

static struct error prompt_ids(const struct subject *s, const struct painting *one, int32_t *ids)
{
    char *text;
    const struct pipeline *w = s->pipeline;
    TRY(captions_fill(s->config.output.prompts.items[one->prompt], one->word, one->vectors, &text));
    int64_t length = w->text.config.positions;
    struct error e = tokenizer_encode(s->tokenizer, "", ids, length);
    if (e.code == ERROR_NONE)
        e = tokenizer_encode(s->tokenizer, text, ids + length, length);
    memory_free(text);
    return e;
}

/* State of the ranks that draw, each its own picture. */
struct crew {
    const struct subject *subject;
    bool over; /* the ranks agreed on an error, the same on all */
};

/* Called after every call of a network, on every rank, also on those with nothing to draw: shares how it went. */
static struct error meet(struct crew *crew, struct error mine)
{
    const struct pipeline *w = crew->subject->pipeline;
    bool stop = !w->simulated && signals_stop_requested();
    comm_tick(w->comm);
    struct error e = comm_meet(w->comm, mine, &stop);
    if (e.code == ERROR_NONE && stop)
        e = (struct error){ERROR_PREEMPTED, "stopped by a signal while drawing; run again with --resume to continue"};
    crew->over = e.code != ERROR_NONE;
    return e;
}

/* Reports a failure of this rank at the others' next meeting; all return the same error. */
static struct error end_crew(struct crew *crew, struct error mine)
{
    return mine.code != ERROR_NONE && !crew->over ? meet(crew, mine) : mine;
}

static struct error tick(void *arg, int64_t call, int64_t calls)
{
    (void)call;
    (void)calls;
    return meet(arg, ok());
}

static int64_t steps_of(const struct pipeline *w)
{
    // few steps take as much memory as many
    return w->simulated ? sampler_least_steps(&w->schedule, sampler_default()) : STEPS;
}

/* This rank has nothing to draw while the others draw one more. */
static struct error look_on(struct crew *crew)
{
    const struct pipeline *w = crew->subject->pipeline;
    int64_t calls = sampler_calls(&w->schedule, sampler_default(), steps_of(w));
    for (int64_t call = 0; call < calls; call++)
        TRY(meet(crew, ok()));
    return ok();
}

static struct error paint(struct denoiser *d, struct crew *crew, const float *embedding, int32_t *ids,
                          struct painting *one)
{
    const struct subject *s = crew->subject;
    TRY(prompt_ids(s, one, ids));
    one->latents = memory_alloc(d->numbers, sizeof *one->latents);
    if (!one->latents)
        return error_memory("a picture");
    // both words start from the same latents, every prompt from others
    rng_normals((uint64_t)s->config.seed, (uint64_t)one->prompt, STREAM_SAMPLE, 0, d->numbers, one->latents);
    return denoiser_run(d, ids, embedding, one->latents, tick, crew);
}

/* This rank's share of the paintings, as latents. */
static struct error paint_mine(struct crew *crew, const float *embedding, struct painting *paintings, int64_t count)
{
    const struct subject *s = crew->subject;
    const struct pipeline *w = s->pipeline;
    int64_t side = s->resolution / w->vae.factor, length = w->text.config.positions;
    const struct denoiser_setup setup = {
        .device = w->device,
        .text = &w->text,
        .unet = &w->unet,
        .schedule = &w->schedule,
        .sampler = sampler_default(),
        .steps = steps_of(w),
        .guidance = guidance,
        .length = length,
        .height = side,
        .width = side,
        .vectors = s->config.token.vectors,
        .first_id = s->first_id,
    };
    struct denoiser d;
    TRY(denoiser_new(&d, &setup));
    int32_t *ids = memory_alloc(2 * length, sizeof *ids);
    struct error e = ids ? ok() : error_memory("a prompt");
    for (int64_t first = 0; first < count && e.code == ERROR_NONE; first += comm_size(w->comm)) {
        int64_t i = first + comm_rank(w->comm);
        e = i < count ? paint(&d, crew, embedding, ids, &paintings[i]) : look_on(crew);
    }
    memory_free(ids);
    denoiser_free(&d);
    return e;
}

static struct error paint_share(const struct subject *s, const float *embedding, struct painting *paintings,
                                int64_t count)
{
    struct crew crew = {.subject = s};
    return end_crew(&crew, paint_mine(&crew, embedding, paintings, count));
}

/* Decodes the share's latents into pictures. */
static struct error decode_mine(struct crew *crew, const struct vae *vae, const struct painting *paintings,
                                int64_t count)
{
    const struct subject *s = crew->subject;
    const struct pipeline *w = s->pipeline;
    struct decoder d;
    int64_t side = s->resolution / w->vae.factor;
    TRY(decoder_new(&d, w->device, vae, side, side));
    struct error e = ok();
    for (int64_t first = 0; first < count && e.code == ERROR_NONE; first += comm_size(w->comm)) {
        int64_t i = first + comm_rank(w->comm);
        if (i < count)
            e = decoder_run(&d, paintings[i].latents, paintings[i].out);
        if (e.code == ERROR_NONE)
            e = meet(crew, ok());
    }
    decoder_free(&d);
    return e;
}

static struct error decode_share(const struct subject *s, const struct vae *vae, const struct painting *paintings,
                                 int64_t count)
{
    struct crew crew = {.subject = s};
    return end_crew(&crew, decode_mine(&crew, vae, paintings, count));
}

static struct error share_pictures(const struct subject *s, const struct painting *paintings, int64_t count)
{
    const struct pipeline *w = s->pipeline;
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++)
        if (!paintings[i].out->rgb)
            e = picture_new(paintings[i].out, s->resolution, s->resolution);
    TRY(comm_agree(w->comm, e));
    for (int64_t i = 0; i < count; i++)
        TRY(comm_broadcast(w->comm, paintings[i].out->rgb, s->resolution * s->resolution * 3,
                           (int)(i % comm_size(w->comm))));
    return ok();
}

/* Every rank paints its share of the paintings; then all ranks get all pictures. `last`: the networks are no longer
 * needed, so they are unloaded to make room for the VAE. */
static struct error paint_all(struct subject *s, const float *embedding, struct painting *paintings, int64_t count,
                              bool last)
{
    struct pipeline *w = s->pipeline;
    if (comm_rank(w->comm) == 0 && !w->simulated)
        log_line("drawing %lld pictures of %d steps", (long long)count, STEPS);
    struct error e = paint_share(s, embedding, paintings, count);
    if (last)
        pipeline_unload(w);
    struct vae vae;
    if (e.code == ERROR_NONE)
        e = pipeline_vae(w, w->comm, false, true, &vae);
    if (e.code == ERROR_NONE) {
        e = decode_share(s, &vae, paintings, count);
        vae_free(&vae);
    }
    if (e.code == ERROR_NONE)
        e = share_pictures(s, paintings, count);
    for (int64_t i = 0; i < count; i++)
        memory_free(paintings[i].latents);
    return e;
}

/* -------------------------------------------------------------------------------- pictures */

/* The pictures takes ownership of the caption. */
static struct error show(struct pictures *g, const struct picture *picture, char *caption)
{
    if (!caption)
        return error_memory("a caption");
    g->captions[g->shown_count] = caption;
    g->shown[g->shown_count++] = (struct report_picture){caption, picture};
    return ok();
}

static struct error show_word(struct pictures *g, const struct picture *pictures, const char *word)
{
    const struct texts *prompts = &g->subject->config.output.prompts;
    for (int64_t i = 0; i < g->prompts; i++) {
        char *caption;
        TRY(captions_fill(prompts->items[i], word, 1, &caption));
        TRY(show(g, &pictures[i], caption));
    }
    return ok();
}

static struct error list_shown(struct pictures *g)
{
    const struct subject *s = g->subject;
    const struct config *c = &s->config;
    int64_t all = s->dataset.count + 2 * g->prompts;
    g->shown = memory_alloc(all, sizeof *g->shown);
    g->captions = memory_alloc(all, sizeof *g->captions);
    if (!g->shown || !g->captions)
        return error_memory("the pictures");
    for (int64_t i = 0; i < s->dataset.count; i++)
        TRY(show(g, &s->dataset.pictures[i], memory_string(path_name(s->dataset.paths[i]))));
    TRY(show_word(g, g->initializer, c->token.initializer));
    return show_word(g, g->learned, c->token.placeholder);
}

struct error pictures_draw(struct pictures *g, struct subject *s, const float *embedding, bool last)
{
    const struct config *c = &s->config;
    *g = (struct pictures){.subject = s, .prompts = c->output.prompts.count};
    g->initializer = memory_alloc(g->prompts, sizeof *g->initializer);
    g->learned = memory_alloc(g->prompts, sizeof *g->learned);
    struct painting *paintings = memory_alloc(2 * g->prompts, sizeof *paintings);
    struct error e = g->initializer && g->learned && paintings ? ok() : error_memory("the pictures");
    for (int64_t i = 0; i < g->prompts && e.code == ERROR_NONE; i++) {
        paintings[2 * i] = (struct painting){c->token.initializer, 1, i, &g->initializer[i], NULL};
        paintings[2 * i + 1] = (struct painting){c->token.placeholder, c->token.vectors, i, &g->learned[i], NULL};
    }
    e = comm_agree(s->pipeline->comm, e);
    if (e.code == ERROR_NONE && g->prompts > 0)
        e = paint_all(s, embedding, paintings, 2 * g->prompts, last);
    if (e.code == ERROR_NONE)
        e = comm_agree(s->pipeline->comm, list_shown(g));
    memory_free(paintings);
    if (e.code != ERROR_NONE)
        pictures_free(g);
    return e;
}

void pictures_free(struct pictures *g)
{
    for (int64_t i = 0; i < g->prompts; i++) {
        if (g->initializer)
            picture_free(&g->initializer[i]);
        if (g->learned)
            picture_free(&g->learned[i]);
    }
    for (int64_t i = 0; i < g->shown_count; i++)
        memory_free(g->captions[i]);
    memory_free(g->initializer);
    memory_free(g->learned);
    memory_free(g->shown);
    memory_free(g->captions);
    *g = (struct pictures){0};
}

/* Puts a picture into its cell, enlarged if it is small. */
static struct error place(struct picture *sheet, const struct picture *picture, int64_t cell, int64_t column,
                          int64_t row)
{
    struct picture sized;
    TRY(picture_resize(&sized, picture, cell, cell));
    picture_paste(sheet, &sized, GAP + column * (cell + GAP), GAP + row * (cell + GAP));
    picture_free(&sized);
    return ok();
}

struct error pictures_save(const struct pictures *g, const char *folder)
{
    const struct subject *s = g->subject;
    int64_t photos = s->dataset.count < 8 ? s->dataset.count : 8, cell = s->resolution;
    int64_t columns = photos > g->prompts ? photos : g->prompts, rows = g->prompts ? 3 : 1;
    while (cell < SMALLEST_CELL)
        cell *= 2;
    char path[PATH_SIZE];
    struct picture sheet;
    TRY(path_join(path, folder, "grid.png"));
    TRY(picture_new(&sheet, GAP + columns * (cell + GAP), GAP + rows * (cell + GAP)));
    memset(sheet.rgb, 255, (size_t)(sheet.width * sheet.height * 3));
    struct error e = ok();
    for (int64_t i = 0; i < photos && e.code == ERROR_NONE; i++)
        e = place(&sheet, &s->dataset.pictures[i], cell, i, 0);
    for (int64_t i = 0; i < g->prompts && e.code == ERROR_NONE; i++) {
        e = place(&sheet, &g->initializer[i], cell, i, 1);
        if (e.code == ERROR_NONE)
            e = place(&sheet, &g->learned[i], cell, i, 2);
    }
    if (e.code == ERROR_NONE)
        e = picture_write(&sheet, path);
    picture_free(&sheet);
    return e;
}

/* -------------------------------------------------------------------------------- samples */

static struct error sample_path(char path[PATH_SIZE], const struct subject *s, int64_t step, int64_t prompt)
{
    char folder[PATH_SIZE], name[64];
    TRY(path_join(folder, s->config.output.dir, "samples"));
    snprintf(name, sizeof name, "step-%lld-%lld.png", (long long)step, (long long)prompt + 1);
    return path_join(path, folder, name);
}

static struct error save_samples(const struct subject *s, const struct picture *pictures, int64_t count, int64_t step)
{
    char path[PATH_SIZE];
    TRY(path_join(path, s->config.output.dir, "samples"));
    TRY(folder_make(path));
    for (int64_t i = 0; i < count; i++) {
        TRY(sample_path(path, s, step, i));
        TRY(picture_write(&pictures[i], path));
    }
    return ok();
}

static bool has_samples(const struct subject *s, int64_t count, int64_t step)
{
    char path[PATH_SIZE];
    for (int64_t i = 0; i < count; i++)
        if (sample_path(path, s, step, i).code != ERROR_NONE || !file_exists(path))
            return false;
    return true;
}

/* If a picture cannot be written, that is reported, and learning continues. */
static void warn_of(struct error e)
{
    if (e.code != ERROR_NONE)
        log_warning("%s; training continues without this sample", e.text);
}

struct error pictures_sample(struct subject *s, const float *embedding, int64_t step, bool missing)
{
    const struct config *c = &s->config;
    int64_t count = c->output.prompts.count;
    bool there = missing && has_samples(s, count, step);
    TRY(comm_broadcast(s->pipeline->comm, &there, sizeof there, 0));
    if (there)
        return ok();
    struct picture *pictures = memory_alloc(count, sizeof *pictures);
    struct painting *paintings = memory_alloc(count, sizeof *paintings);
    struct error e = pictures && paintings ? ok() : error_memory("the samples");
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++)
        paintings[i] = (struct painting){c->token.placeholder, c->token.vectors, i, &pictures[i], NULL};
    e = comm_agree(s->pipeline->comm, e);
    if (e.code == ERROR_NONE && count > 0)
        e = paint_all(s, embedding, paintings, count, false);
    if (e.code == ERROR_NONE && comm_rank(s->pipeline->comm) == 0 && !s->pipeline->simulated)
        warn_of(save_samples(s, pictures, count, step));
    for (int64_t i = 0; i < count && pictures; i++)
        picture_free(&pictures[i]);
    memory_free(pictures);
    memory_free(paintings);
    return comm_agree(s->pipeline->comm, e);
}
