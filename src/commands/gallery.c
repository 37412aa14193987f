#include "commands/gallery.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"
#include "files/file.h"
#include "model/painter.h"
#include "text/captions.h"

enum { STEPS = 50, GAP = 4, SMALLEST_CELL = 128 };
static const double guidance = 7.5;

/* One word on one prompt. */
struct job {
    const char *word;
    int64_t vectors;
    int64_t prompt;
    struct picture *out;
};

struct easel {
    const struct subject *subject;
    struct vae vae;
    struct painter painter;
    int32_t *ids; /* [2, length]: the empty prompt, the prompt */
    float *start;
};

static struct error open_easel(struct easel *e, const struct subject *s)
{
    *e = (struct easel){.subject = s};
    TRY(comm_agree(s->comm, vae_load(&e->vae, s->device, s->config.model, 0, false, true, store_shared(s->comm))));
    int64_t side = s->resolution / s->vae.factor, length = s->text.config.positions;
    const struct painter_parts parts = {
        .device = s->device,
        .text = &s->text,
        .unet = &s->unet,
        .vae = &e->vae,
        .schedule = &s->schedule,
        .length = length,
        .height = side,
        .width = side,
        .vectors = s->config.token.vectors,
        .first_id = s->first_id,
        .guided = true,
    };
    e->ids = memory_take(2 * length, sizeof *e->ids);
    e->start = memory_take(side * side * s->vae.latent_channels, sizeof *e->start);
    struct error error = e->ids && e->start ? painter_new(&e->painter, &parts) : error_memory("a picture");
    return comm_agree(s->comm, error);
}

static void close_easel(struct easel *e)
{
    painter_free(&e->painter);
    vae_free(&e->vae);
    memory_free(e->ids);
    memory_free(e->start);
}

static struct error paint(struct easel *e, const float *embedding, const struct job *job)
{
    const struct subject *s = e->subject;
    char *text;
    TRY(captions_fill(s->config.output.prompts.items[job->prompt], job->word, job->vectors, &text));
    int64_t length = s->text.config.positions;
    struct error error = tokenizer_encode(s->tokenizer, "", e->ids, length);
    if (error.code == ERROR_NONE)
        error = tokenizer_encode(s->tokenizer, text, e->ids + length, length);
    memory_free(text);
    TRY(error);
    // the same start for both words, another for every prompt
    rng_normals((uint64_t)s->config.seed, (uint64_t)job->prompt, STREAM_SAMPLE, 0, e->painter.numbers, e->start);
    return painter_draw(&e->painter, e->ids, embedding, e->start, SAMPLER_PNDM, STEPS, guidance, NULL, NULL, job->out);
}

/* Every rank paints its share of the jobs; then all have all pictures. */
static struct error paint_jobs(const struct subject *s, const float *embedding, const struct job *jobs, int64_t count)
{
    struct easel e;
    if (comm_rank(s->comm) == 0)
        log_line("drawing %lld pictures of %d steps", (long long)count, STEPS);
    struct error error = open_easel(&e, s);
    int size = comm_size(s->comm);
    if (error.code == ERROR_NONE) {
        for (int64_t i = comm_rank(s->comm); i < count && error.code == ERROR_NONE; i += size)
            error = paint(&e, embedding, &jobs[i]);
        for (int64_t i = 0; i < count && error.code == ERROR_NONE; i++)
            if (!jobs[i].out->rgb)
                error = picture_new(jobs[i].out, s->resolution, s->resolution);
        error = comm_agree(s->comm, error);
        int64_t bytes = s->resolution * s->resolution * 3;
        for (int64_t i = 0; i < count && error.code == ERROR_NONE; i++)
            error = comm_broadcast(s->comm, jobs[i].out->rgb, bytes, (int)(i % size));
    }
    close_easel(&e);
    return error;
}

/* ---------------------------------------------------------------------------------------------------- gallery */

/* The caption becomes the gallery's. */
static struct error show(struct gallery *g, const struct picture *picture, char *caption)
{
    if (!caption)
        return error_memory("a caption");
    g->captions[g->shown_count] = caption;
    g->shown[g->shown_count++] = (struct report_picture){caption, picture};
    return ok();
}

static struct error show_word(struct gallery *g, const struct picture *pictures, const char *word)
{
    const struct texts *prompts = &g->subject->config.output.prompts;
    for (int64_t i = 0; i < g->prompts; i++) {
        char *caption;
        TRY(captions_fill(prompts->items[i], word, 1, &caption));
        TRY(show(g, &pictures[i], caption));
    }
    return ok();
}

static struct error list_shown(struct gallery *g)
{
    const struct subject *s = g->subject;
    const struct config *c = &s->config;
    int64_t all = s->dataset.count + 2 * g->prompts;
    g->shown = memory_take(all, sizeof *g->shown);
    g->captions = memory_take(all, sizeof *g->captions);
    if (!g->shown || !g->captions)
        return error_memory("the pictures");
    for (int64_t i = 0; i < s->dataset.count; i++) {
        const char *slash = strrchr(s->dataset.paths[i], '/');
        TRY(show(g, &s->dataset.pictures[i], memory_string(slash ? slash + 1 : s->dataset.paths[i])));
    }
    TRY(show_word(g, g->initializer, c->token.initializer));
    return show_word(g, g->learned, c->token.placeholder);
}

struct error gallery_draw(struct gallery *g, const struct subject *s, const float *embedding)
{
    const struct config *c = &s->config;
    *g = (struct gallery){.subject = s, .prompts = c->output.prompts.count};
    g->initializer = memory_take(g->prompts, sizeof *g->initializer);
    g->learned = memory_take(g->prompts, sizeof *g->learned);
    struct job *jobs = memory_take(2 * g->prompts, sizeof *jobs);
    struct error e = g->initializer && g->learned && jobs ? ok() : error_memory("the pictures");
    for (int64_t i = 0; i < g->prompts && e.code == ERROR_NONE; i++) {
        jobs[2 * i] = (struct job){c->token.initializer, 1, i, &g->initializer[i]};
        jobs[2 * i + 1] = (struct job){c->token.placeholder, c->token.vectors, i, &g->learned[i]};
    }
    e = comm_agree(s->comm, e);
    if (e.code == ERROR_NONE && g->prompts > 0)
        e = paint_jobs(s, embedding, jobs, 2 * g->prompts);
    if (e.code == ERROR_NONE)
        e = comm_agree(s->comm, list_shown(g));
    memory_free(jobs);
    if (e.code != ERROR_NONE)
        gallery_free(g);
    return e;
}

void gallery_free(struct gallery *g)
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
    *g = (struct gallery){0};
}

/* A picture into its cell, enlarged where it is small. */
static struct error place(struct picture *sheet, const struct picture *picture, int64_t cell, int64_t column,
                          int64_t row)
{
    struct picture sized;
    TRY(picture_resize(&sized, picture, cell, cell));
    picture_paste(sheet, &sized, GAP + column * (cell + GAP), GAP + row * (cell + GAP));
    picture_free(&sized);
    return ok();
}

struct error gallery_save(const struct gallery *g, const char *folder)
{
    const struct subject *s = g->subject;
    int64_t photos = s->dataset.count < 8 ? s->dataset.count : 8, cell = s->resolution;
    int64_t columns = photos > g->prompts ? photos : g->prompts, rows = g->prompts ? 3 : 1;
    while (cell < SMALLEST_CELL)
        cell *= 2;
    char path[4096];
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

/* ---------------------------------------------------------------------------------------------------- samples */

static struct error save_samples(const struct subject *s, const struct picture *pictures, int64_t count, int64_t step)
{
    char folder[4096], path[4096], name[64];
    TRY(path_join(folder, s->config.output.dir, "samples"));
    TRY(folder_make(folder));
    for (int64_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "step-%lld-%lld.png", (long long)step, (long long)i + 1);
        TRY(path_join(path, folder, name));
        TRY(picture_write(&pictures[i], path));
    }
    return ok();
}

struct error gallery_sample(const struct subject *s, const float *embedding, int64_t step)
{
    const struct config *c = &s->config;
    int64_t count = c->output.prompts.count;
    struct picture *pictures = memory_take(count, sizeof *pictures);
    struct job *jobs = memory_take(count, sizeof *jobs);
    struct error e = pictures && jobs ? ok() : error_memory("the samples");
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++)
        jobs[i] = (struct job){c->token.placeholder, c->token.vectors, i, &pictures[i]};
    e = comm_agree(s->comm, e);
    if (e.code == ERROR_NONE && count > 0)
        e = paint_jobs(s, embedding, jobs, count);
    if (e.code == ERROR_NONE && comm_rank(s->comm) == 0)
        e = save_samples(s, pictures, count, step);
    for (int64_t i = 0; i < count && pictures; i++)
        picture_free(&pictures[i]);
    memory_free(pictures);
    memory_free(jobs);
    return comm_agree(s->comm, e);
}
