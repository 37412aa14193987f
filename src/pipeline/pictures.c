#include "pipeline/pictures.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"
#include "files/file.h"
#include "pipeline/generation.h"
#include "text/captions.h"

enum { GAP = 4, SMALLEST_CELL = 128 };

/* -------------------------------------------------------------------------------- words on prompts */

/* One word on one prompt, and where its picture goes. */
struct subject_picture {
    const char *word;
    int64_t prompt;
    struct picture *picture;
};

/* What begin_picture and end_picture need. */
struct picture_set {
    const struct subject *subject;
    const struct subject_picture *items;
};

static struct error begin_picture(void *arg, int64_t i, int32_t *ids, float *latents)
{
    const struct picture_set *set = arg;
    const struct subject *s = set->subject;
    const struct pipeline *pipeline = s->pipeline;
    const struct subject_picture *item = &set->items[i];
    int64_t side = s->resolution / pipeline->vae.factor, length = s->length;
    char *text;
    TRY(captions_fill(s->config.output.prompts.items[item->prompt], item->word, &text));
    bool guided = s->config.output.guidance > 1;
    struct error e = guided ? tokenizer_encode(s->tokenizer, "", ids, length) : ok();
    if (e.code == ERROR_NONE)
        e = tokenizer_encode(s->tokenizer, text, guided ? ids + length : ids, length);
    memory_free(text);
    // both words start from the same latents, every prompt from others
    rng_normals((uint64_t)s->config.seed, (uint64_t)item->prompt, STREAM_SAMPLE, 0,
                side * side * pipeline->vae.latent_channels, latents);
    return e;
}

static struct error end_picture(void *arg, int64_t i, struct picture *picture)
{
    const struct picture_set *set = arg;
    *set->items[i].picture = *picture;
    return ok();
}

static struct error spoiled_picture(void *arg, int64_t i)
{
    const struct picture_set *set = arg;
    const struct subject *s = set->subject;
    const struct subject_picture *item = &set->items[i];
    return error_failed("%.200s: \"%.100s\" with %.60s: the picture is not a number: its latents or pixels hold NaN or "
                        "infinity",
                        s->config.output.dir, s->config.output.prompts.items[item->prompt], item->word);
}

/* All ranks get the pictures that each has generated. */
static struct error share_pictures(const struct subject *s, const struct subject_picture *items, int64_t count)
{
    struct comm *comm = s->pipeline->comm;
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++)
        if (!items[i].picture->rgb)
            e = picture_new(items[i].picture, s->resolution, s->resolution);
    TRY(comm_agree(comm, e));
    for (int64_t i = 0; i < count; i++)
        TRY(comm_broadcast(comm, items[i].picture->rgb, s->resolution * s->resolution * 3, (int)(i % comm_size(comm))));
    return ok();
}

static struct generation generation_of(const struct subject *s)
{
    int64_t side = s->resolution / s->pipeline->vae.factor;
    return (struct generation){
        .pipeline = s->pipeline,
        .sampler = sampler_default(),
        .steps = s->config.output.sample_steps,
        .guidance = s->config.output.guidance,
        .length = s->length,
        .height = side,
        .width = side,
        .vectors = s->config.token.vectors,
        .first_id = s->first_id,
        .begin = begin_picture,
        .end = end_picture,
        .spoiled = spoiled_picture,
    };
}

/* unload: the networks are no longer needed. *spoiled: the error is that a picture is not a number. */
static struct error generate(struct subject *s, const float *embedding, const struct subject_picture *items,
                             int64_t count, bool unload, bool *spoiled)
{
    struct pipeline *pipeline = s->pipeline;
    struct picture_set set = {s, items};
    struct generation generation = generation_of(s);
    generation.rows = embedding;
    generation.unload = unload;
    generation.arg = &set;
    if (comm_rank(pipeline->comm) == 0 && !pipeline->simulated)
        log_line("drawing %lld pictures of %lld steps", (long long)count, (long long)generation.steps);
    struct error e = generation_run(&generation, count);
    *spoiled = generation.only_spoiled;
    TRY(e);
    return share_pictures(s, items, count);
}

double pictures_cost(const struct subject *s, int64_t words)
{
    const struct generation generation = generation_of(s);
    return generation_cost(&generation, words * s->config.output.prompts.count);
}

/* -------------------------------------------------------------------------------- pictures */

/* Takes ownership of the caption. */
static struct error show(struct pictures *p, const struct picture *picture, char *caption)
{
    if (!caption)
        return error_memory("a caption");
    p->captions[p->shown_count] = caption;
    p->shown[p->shown_count++] = (struct report_picture){caption, picture};
    return ok();
}

static struct error show_word(struct pictures *p, const struct picture *pictures, const char *word)
{
    const struct texts *prompts = &p->subject->config.output.prompts;
    for (int64_t i = 0; i < p->prompts; i++) {
        char *caption;
        TRY(captions_fill(prompts->items[i], word, &caption));
        TRY(show(p, &pictures[i], caption));
    }
    return ok();
}

static struct error list_shown(struct pictures *p)
{
    const struct subject *s = p->subject;
    const struct config *c = &s->config;
    int64_t all = s->dataset.count + 2 * p->prompts;
    p->shown = memory_alloc(all, sizeof *p->shown);
    p->captions = memory_alloc(all, sizeof *p->captions);
    if (!p->shown || !p->captions)
        return error_memory("the pictures");
    for (int64_t i = 0; i < s->dataset.count; i++)
        TRY(show(p, &s->dataset.pictures[i], memory_string(path_name(s->dataset.paths[i]))));
    TRY(show_word(p, p->initializer, c->token.initializer));
    return show_word(p, p->learned, c->token.placeholder);
}

struct error pictures_generate(struct pictures *p, struct subject *s, const float *embedding, bool last)
{
    const struct config *c = &s->config;
    *p = (struct pictures){.subject = s, .prompts = c->output.prompts.count};
    p->initializer = memory_alloc(p->prompts, sizeof *p->initializer);
    p->learned = memory_alloc(p->prompts, sizeof *p->learned);
    struct subject_picture *items = memory_alloc(2 * p->prompts, sizeof *items);
    bool spoiled;
    struct error e = p->initializer && p->learned && items ? ok() : error_memory("the pictures");
    for (int64_t i = 0; i < p->prompts && e.code == ERROR_NONE; i++) {
        items[2 * i] = (struct subject_picture){c->token.initializer, i, &p->initializer[i]};
        items[2 * i + 1] = (struct subject_picture){c->token.placeholder, i, &p->learned[i]};
    }
    e = comm_agree(s->pipeline->comm, e);
    if (e.code == ERROR_NONE && p->prompts > 0)
        e = generate(s, embedding, items, 2 * p->prompts, last, &spoiled);
    if (e.code == ERROR_NONE)
        e = comm_agree(s->pipeline->comm, list_shown(p));
    memory_free(items);
    if (e.code != ERROR_NONE)
        pictures_free(p);
    return e;
}

void pictures_free(struct pictures *p)
{
    for (int64_t i = 0; i < p->prompts; i++) {
        if (p->initializer)
            picture_free(&p->initializer[i]);
        if (p->learned)
            picture_free(&p->learned[i]);
    }
    for (int64_t i = 0; i < p->shown_count; i++)
        memory_free(p->captions[i]);
    memory_free(p->initializer);
    memory_free(p->learned);
    memory_free(p->shown);
    memory_free(p->captions);
    *p = (struct pictures){0};
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

static struct error place_all(struct picture *sheet, const struct pictures *p, int64_t cell, int64_t photos)
{
    for (int64_t i = 0; i < photos; i++)
        TRY(place(sheet, &p->subject->dataset.pictures[i], cell, i, 0));
    for (int64_t i = 0; i < p->prompts; i++) {
        TRY(place(sheet, &p->initializer[i], cell, i, 1));
        TRY(place(sheet, &p->learned[i], cell, i, 2));
    }
    return ok();
}

struct error pictures_save(const struct pictures *p, const char *folder)
{
    const struct subject *s = p->subject;
    int64_t photos = s->dataset.count < 8 ? s->dataset.count : 8, cell = s->resolution;
    int64_t columns = photos > p->prompts ? photos : p->prompts, rows = p->prompts ? 3 : 1;
    while (cell < SMALLEST_CELL)
        cell *= 2;
    char path[PATH_SIZE];
    struct picture sheet;
    TRY(path_join(path, folder, "grid.png"));
    TRY(picture_new(&sheet, GAP + columns * (cell + GAP), GAP + rows * (cell + GAP)));
    memset(sheet.rgb, 255, (size_t)(sheet.width * sheet.height * 3));
    struct error e = place_all(&sheet, p, cell, photos);
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

/* If a picture cannot be written or is not a number, that is reported, and learning continues. */
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
    bool spoiled = false;
    struct picture *pictures = memory_alloc(count, sizeof *pictures);
    struct subject_picture *items = memory_alloc(count, sizeof *items);
    struct error e = pictures && items ? ok() : error_memory("the samples");
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++)
        items[i] = (struct subject_picture){c->token.placeholder, i, &pictures[i]};
    e = comm_agree(s->pipeline->comm, e);
    if (e.code == ERROR_NONE && count > 0)
        e = generate(s, embedding, items, count, false, &spoiled);
    bool saves = comm_rank(s->pipeline->comm) == 0 && !s->pipeline->simulated;
    if (saves && (e.code == ERROR_NONE || spoiled))
        warn_of(spoiled ? e : save_samples(s, pictures, count, step));
    e = spoiled ? ok() : e;
    for (int64_t i = 0; i < count && pictures; i++)
        picture_free(&pictures[i]);
    memory_free(pictures);
    memory_free(items);
    return comm_agree(s->pipeline->comm, e);
}
