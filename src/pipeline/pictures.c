#include "pipeline/pictures.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/rng.h"
#include "files/file.h"
#include "pipeline/generation.h"
#include "pipeline/picture_texts.h"
#include "report/film.h"
#include "text/captions.h"

/* -------------------------------------------------------------------------------- words on prompts */

/* One word on one prompt, and where its picture goes. The word before its first step is a text, or, if it is a file's, the
 * vectors that follow those of the new word. */
struct subject_picture {
    const char *word;
    bool second;
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
    TRY(picture_prompt(s, item->word, item->prompt, &text));
    bool guided = s->config.output.guidance > 1;
    struct error e = guided ? tokenizer_encode(s->tokenizer, "", ids, length) : ok();
    if (e.code == ERROR_NONE)
        e = tokenizer_encode(s->tokenizer, text, guided ? ids + length : ids, length);
    memory_free(text);
    for (int64_t k = 0; k < (guided ? 2 : 1) * length && item->second; k++)
        if (ids[k] >= s->first_id)
            ids[k] += (int32_t)s->config.token.vectors;
    // both words start from the same latents, every prompt from others
    rng_normals((uint64_t)picture_seed(s, item->prompt), 0, STREAM_SAMPLE, 0,
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
        .sampler = sampler_default(&s->pipeline->schedule),
        .steps = s->config.output.sample_steps,
        .guidance = s->config.output.guidance,
        .length = s->length,
        .chunks = 1,
        .height = side,
        .width = side,
        .vectors = s->config.token.vectors,
        .first_id = s->first_id,
        .begin = begin_picture,
        .end = end_picture,
        .spoiled = spoiled_picture,
    };
}

static void log_beginning(const struct generation *g, int64_t count)
{
    char note[80] = "";
    if (g->pipeline->schedule.zero_snr)
        snprintf(note, sizeof note, " by %s, as pndm cannot begin at zero terminal SNR", sampler_name(g->sampler));
    log_line("generating %lld pictures in %lld steps each%s", (long long)count, (long long)g->steps, note);
}

/* rows: the new word's, `words` times as many with those of a second one. unload: the networks are no longer needed.
 * *spoiled: the error is that a picture is not a number. */
static struct error generate(struct subject *s, const float *rows, int64_t words, const struct subject_picture *items,
                             int64_t count, bool unload, bool *spoiled)
{
    struct pipeline *pipeline = s->pipeline;
    struct picture_set set = {s, items};
    struct generation generation = generation_of(s);
    generation.rows = rows;
    generation.vectors *= words;
    generation.unload = unload;
    generation.arg = &set;
    if (comm_rank(pipeline->comm) == 0 && !pipeline->simulated)
        log_beginning(&generation, count);
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

/* A prompt as a caption of both words: "a photo of a ... on the beach". */
static struct error name_prompts(struct pictures *p, const struct texts *prompts)
{
    for (int64_t i = 0; i < prompts->count; i++)
        TRY(captions_fill(prompts->items[i], "...", &p->prompts[i]));
    return ok();
}

/* The commands of both words' pictures; none where a GPU multiplies bfloat16 numbers, as generate does not. */
static struct error find_commands(struct pictures *p, const struct subject *s)
{
    const struct config *c = &s->config;
    if (device_identity(s->pipeline->device) && strcmp(c->quant.activations, "bf16") == 0)
        return ok();
    bool file = s->initializer.word.rows;
    const char *const words[] = {file ? c->token.placeholder : c->token.initializer, c->token.placeholder};
    const char *const files[] = {file ? p->start_word : p->word, p->word};
    int64_t prompts = c->output.prompts.count;
    TRY(path_join(p->word, c->output.dir, "learned_embeds.safetensors"));
    snprintf(p->start_word, sizeof p->start_word, "%s=%s", c->token.placeholder, c->token.initializer);
    p->texts = memory_alloc(2 * prompts, sizeof *p->texts);
    p->commands = memory_alloc(2 * prompts, sizeof *p->commands);
    if (!p->texts || !p->commands)
        return error_memory("the pictures");
    for (int64_t i = 0; i < 2 * prompts; i++) {
        TRY(picture_prompt(s, words[i / prompts], i % prompts, &p->texts[i]));
        TRY(picture_command(s, i % prompts, p->texts[i], files[i / prompts], &p->commands[i]));
    }
    p->shown.start_commands = p->commands;
    p->shown.learned_commands = p->commands + prompts;
    return ok();
}

/* All but the generated pictures. */
static struct error name_all(struct pictures *p, const struct subject *s)
{
    const struct config *c = &s->config;
    int64_t photos = s->dataset.count, prompts = c->output.prompts.count;
    p->names = memory_alloc(photos, sizeof *p->names);
    p->prompts = memory_alloc(prompts, sizeof *p->prompts);
    p->start = memory_alloc(prompts, sizeof *p->start);
    p->learned = memory_alloc(prompts, sizeof *p->learned);
    if (!p->names || !p->prompts || !p->start || !p->learned)
        return error_memory("the pictures");
    p->shown = (struct report_pictures){
        .photos = s->dataset.pictures,
        .names = p->names,
        .photo_count = photos,
        .prompts = (const char *const *)p->prompts,
        .start = p->start,
        .learned = p->learned,
        .prompt_count = prompts,
    };
    for (int64_t i = 0; i < photos; i++)
        p->names[i] = path_name(s->dataset.paths[i]);
    const char *start = c->token.initializer;
    TRY(captions_fill("start word \"{}\"", s->initializer.word.rows ? path_name(start) : start, &p->labels[0]));
    TRY(captions_fill("learned word \"{}\"", c->token.placeholder, &p->labels[1]));
    p->shown.start_label = p->labels[0];
    p->shown.learned_label = p->labels[1];
    TRY(name_prompts(p, &c->output.prompts));
    return find_commands(p, s);
}

/* The rows of the new word, and of the word before its first step. */
static float *join_rows(const struct subject *s, const float *embedding)
{
    int64_t numbers = s->config.token.vectors * s->pipeline->text_config.width;
    float *rows = memory_alloc(2 * numbers, sizeof *rows);
    if (rows) {
        memcpy(rows, embedding, (size_t)numbers * sizeof *rows);
        memcpy(rows + numbers, s->start, (size_t)numbers * sizeof *rows);
    }
    return rows;
}

static struct error generate_both(struct pictures *p, struct subject *s, const float *embedding, bool last)
{
    const struct config *c = &s->config;
    int64_t prompts = c->output.prompts.count;
    bool spoiled, file = s->initializer.word.rows;
    struct subject_picture *items = memory_alloc(2 * prompts, sizeof *items);
    float *both = file ? join_rows(s, embedding) : NULL;
    struct error e = items && (both || !file) ? ok() : error_memory("the pictures");
    for (int64_t i = 0; i < prompts && items; i++) {
        const char *start = file ? c->token.placeholder : c->token.initializer;
        items[2 * i] = (struct subject_picture){start, file, i, &p->start[i]};
        items[2 * i + 1] = (struct subject_picture){c->token.placeholder, false, i, &p->learned[i]};
    }
    e = comm_agree(s->pipeline->comm, e);
    if (e.code == ERROR_NONE && prompts > 0)
        e = generate(s, file ? both : embedding, file ? 2 : 1, items, 2 * prompts, last, &spoiled);
    memory_free(both);
    memory_free(items);
    return e;
}

struct error pictures_generate(struct pictures *p, struct subject *s, const float *embedding, bool last)
{
    *p = (struct pictures){0};
    struct error e = comm_agree(s->pipeline->comm, name_all(p, s));
    if (e.code == ERROR_NONE)
        e = generate_both(p, s, embedding, last);
    if (e.code != ERROR_NONE)
        pictures_free(p);
    return e;
}

void pictures_free(struct pictures *p)
{
    for (int64_t i = 0; i < p->shown.prompt_count; i++) {
        picture_free(&p->start[i]);
        picture_free(&p->learned[i]);
        memory_free(p->prompts[i]);
    }
    for (int64_t i = 0; i < 2 * p->shown.prompt_count && p->texts; i++)
        memory_free(p->texts[i]);
    memory_free(p->texts);
    memory_free(p->commands);
    memory_free(p->start);
    memory_free(p->learned);
    memory_free(p->prompts);
    memory_free(p->names);
    memory_free(p->labels[0]);
    memory_free(p->labels[1]);
    *p = (struct pictures){0};
}

/* -------------------------------------------------------------------------------- samples */

/* TensorBoard has a strip for each prompt. */
static struct error add_event(const struct subject *s, const struct picture *picture, int64_t step, int64_t prompt,
                              struct metrics *metrics)
{
    char *text, tag[320];
    TRY(captions_fill(s->config.output.prompts.items[prompt], "...", &text));
    snprintf(tag, sizeof tag, "samples/%lld: %s", (long long)prompt + 1, text);
    memory_free(text);
    return metrics_add_picture(metrics, step, tag, picture);
}

static struct error save_sample(const struct subject *s, const float *embedding, const struct picture *picture,
                                int64_t step, int64_t prompt)
{
    char path[PATH_SIZE], *text;
    TRY(film_path(path, s->config.output.dir, step, prompt));
    TRY(picture_parameters(s, prompt, embedding, &text));
    struct error e = picture_write(picture, path, text);
    memory_free(text);
    return e;
}

static struct error save_samples(const struct subject *s, const float *embedding, const struct picture *pictures,
                                 int64_t count, int64_t step, struct metrics *metrics)
{
    char path[PATH_SIZE];
    TRY(path_join(path, s->config.output.dir, "samples"));
    TRY(folder_make(path));
    for (int64_t i = 0; i < count; i++)
        TRY(save_sample(s, embedding, &pictures[i], step, i));
    for (int64_t i = 0; i < count; i++)
        TRY(add_event(s, &pictures[i], step, i, metrics));
    return ok();
}

static bool has_samples(const struct subject *s, int64_t count, int64_t step)
{
    char path[PATH_SIZE];
    for (int64_t i = 0; i < count; i++)
        if (film_path(path, s->config.output.dir, step, i).code != ERROR_NONE || !file_exists(path))
            return false;
    return true;
}

/* If a picture cannot be written or is not a number, that is reported, and learning continues. */
static void warn_of(struct error e)
{
    if (e.code != ERROR_NONE)
        log_warning("%s; training continues without this sample", e.text);
}

struct error pictures_sample(struct subject *s, const float *embedding, int64_t step, bool missing,
                             struct metrics *metrics)
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
        items[i] = (struct subject_picture){c->token.placeholder, false, i, &pictures[i]};
    e = comm_agree(s->pipeline->comm, e);
    if (e.code == ERROR_NONE && count > 0)
        e = generate(s, embedding, 1, items, count, false, &spoiled);
    bool saves = comm_rank(s->pipeline->comm) == 0 && !s->pipeline->simulated;
    if (saves && (e.code == ERROR_NONE || spoiled))
        warn_of(spoiled ? e : save_samples(s, embedding, pictures, count, step, metrics));
    e = spoiled ? ok() : e;
    for (int64_t i = 0; i < count && pictures; i++)
        picture_free(&pictures[i]);
    memory_free(pictures);
    memory_free(items);
    return comm_agree(s->pipeline->comm, e);
}
