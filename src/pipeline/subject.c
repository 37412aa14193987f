#include "pipeline/subject.h"

#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "files/file.h"
#include "files/photos.h"
#include "model/sampler.h"
#include "pipeline/derivative.h"
#include "pipeline/fingerprint.h"
#include "pipeline/learning_rate.h"
#include "zo/basis.h"

/* -------------------------------------------------------------------------------- reading */

/* Does the model's schedule have that many steps? Asked now, since pictures come at the very end. */
static struct error check_sampler(const struct subject *s)
{
    const struct config *c = &s->config;
    const struct noise_schedule *schedule = &s->pipeline->schedule;
    const struct sampler_type *type = sampler_default(schedule);
    struct sampler trial;
    if (c->output.prompts.count == 0)
        return ok();
    TRY(sampler_check(schedule, type));
    TRY(config_blame(c, "output.sample_steps", sampler_new(&trial, schedule, type, c->output.sample_steps, 1)));
    sampler_free(&trial);
    return ok();
}

/* There are as many eigenvectors as the word has numbers. */
static struct error check_directions(const struct config *c, int64_t dim)
{
    if (c->zo.directions != DIRECTIONS_TEXT)
        return ok();
    if (dim > TEXT_BASIS_DIM)
        return config_blame(c, "token.vectors",
                            error_input("is %lld, a word of %lld numbers; expected at most %d of them with "
                                        "zo.directions text",
                                        (long long)c->token.vectors, (long long)dim, TEXT_BASIS_DIM));
    bool rank = c->zo.rank > dim;
    if (!rank && c->zo.n <= dim)
        return ok();
    return config_blame(
        c, rank ? "zo.rank" : "zo.n",
        error_input("is %lld, but with zo.directions text a word of %lld numbers has no more directions "
                    "than that; expected at most %lld",
                    (long long)(rank ? c->zo.rank : c->zo.n), (long long)dim, (long long)dim));
}

/* Checks the config's values against the model. */
static struct error check_model(struct subject *s)
{
    const struct config *c = &s->config;
    const struct pipeline *p = s->pipeline;
    if (c->zo.timesteps[1] > p->schedule.steps)
        return config_blame(c, "zo.timesteps",
                            error_input("[%lld, %lld] goes beyond the %lld timesteps of the model's scheduler",
                                        (long long)c->zo.timesteps[0], (long long)c->zo.timesteps[1],
                                        (long long)p->schedule.steps));
    TRY(check_directions(c, c->token.vectors * p->text_config.width));
    s->resolution = c->data.resolution ? c->data.resolution : p->unet_config.sample_size * p->vae.factor;
    if (s->resolution % p->vae.factor != 0)
        return config_blame(c, "data.resolution",
                            error_input("is %lld, expected a multiple of %lld, the VAE's factor",
                                        (long long)s->resolution, (long long)p->vae.factor));
    return check_sampler(s);
}

/* Whether a text is one token of the model, a word as prompts have it. */
static struct error find_word(const struct tokenizer *t, const char *word, bool *found)
{
    int64_t count;
    TRY(tokenizer_pieces(t, word, NULL, 0, &count));
    *found = count == 1;
    return ok();
}

/* The word becomes new tokens, in a tokenizer of the subject's own. */
static struct error read_words(struct subject *s, struct pipeline *model)
{
    const struct config *c = &s->config;
    const struct tokenizer *base;
    TRY(pipeline_tokenizer(model, &base));
    TRY(tokenizer_derive(&s->tokenizer, base));
    TRY(initializer_tokens(&s->initializer, c, s->tokenizer, s->pipeline->text_config.vocab));
    s->length = tokenizer_length(s->tokenizer, s->pipeline->text_config.positions);
    TRY(config_blame(c, "token.placeholder", find_word(s->tokenizer, c->token.placeholder, &s->plain_word)));
    return config_blame(c, "token.placeholder",
                        tokenizer_add(s->tokenizer, c->token.placeholder, c->token.vectors, &s->first_id));
}

/* What each rank reads itself. model: the pipeline whose tokenizer it takes. */
static struct error read_mine(struct subject *s, struct pipeline *p, struct config *config, struct pipeline *model)
{
    *s = (struct subject){.pipeline = p, .config = *config};
    *config = (struct config){0};
    s->rate_was_auto = learning_rate_settle(&s->config, p->table_rms);
    TRY(initializer_open(&s->initializer, &s->config, p->text_config.width));
    s->recipe = config_recipe(&s->config);
    if (!s->recipe)
        return error_memory("the recipe");
    TRY(check_model(s));
    return read_words(s, model);
}

/* Have all ranks read the same? */
static struct error compare_ranks(const struct subject *s)
{
    struct comm *comm = s->pipeline->comm;
    const int64_t word[] = {s->resolution, s->length, s->first_id, initializer_sum(&s->initializer)};
    // all of it, not only the recipe: steps, prompts and so on decide how often the ranks meet
    char *config = config_json(&s->config);
    TRY(comm_agree(comm, config ? ok() : error_memory("the config")));
    const struct fingerprint fingerprints[] = {
        {"the config", fingerprint_text(0, config)},
        {"the model's tokenizer or settings, or the initializer's file", fingerprint_bytes(0, word, sizeof word)}};
    memory_free(config);
    return fingerprint_compare(comm, fingerprints, sizeof fingerprints / sizeof *fingerprints);
}

static const char usual_word[] = "sks"; /* chosen because a model's own word of that name is not missed */

/* Tangents take no step. */
static void warn_of_eps(const struct config *c)
{
    if (c->zo.derivative == DERIVATIVE_TANGENT && config_gives(c, "zo.eps"))
        log_warning("%s", config_blame(c, "zo.eps", error_input("is not used: zo.derivative is tangent")).text);
}

/* What is not used, and what prompts lose: rank 0 logs warnings of it. */
static struct error warn(const struct subject *s)
{
    const struct config *c = &s->config;
    const char *word = c->token.placeholder;
    warn_of_eps(c);
    struct error plain =
        error_input("\"%.60s\" is a word of this model, which prompts lose to the new one; \"<%.60s>\" "
                    "would be new",
                    word, word);
    if (s->plain_word && strcmp(word, usual_word) != 0)
        log_warning("%s", config_blame(c, "token.placeholder", plain).text);
    for (int64_t i = 0; i < c->output.prompts.count; i++) {
        char *text;
        TRY(captions_fill(c->output.prompts.items[i], word, &text));
        struct error cut = config_blame(c, "output.prompts", tokenizer_check_length(s->tokenizer, text, s->length));
        memory_free(text);
        if (cut.code == ERROR_FAILED)
            return cut;
        if (cut.code != ERROR_NONE)
            log_warning("%s", cut.text);
    }
    return ok();
}

struct error subject_read(struct subject *s, struct pipeline *p, struct config *config, enum start start)
{
    struct progress progress;
    const char *why;
    TRY(derivative_settle(config, p, start, &why));
    progress_phase(&progress, "reading words and captions", 0, "");
    struct error e = comm_agree(p->comm, read_mine(s, p, config, p));
    if (e.code == ERROR_NONE)
        e = compare_ranks(s);
    progress_end(&progress);
    s->derivative_why = why;
    if (e.code == ERROR_NONE)
        e = dataset_read(&s->dataset, &s->config, s->tokenizer, s->first_id, s->resolution, s->length, p->comm);
    if (e.code == ERROR_NONE)
        e = comm_agree(p->comm, comm_rank(p->comm) == 0 ? warn(s) : ok());
    if (e.code != ERROR_NONE)
        subject_free(s);
    return e;
}

struct error subject_check(struct pipeline *p, const struct config *config)
{
    struct subject s = {0};
    struct config own;
    TRY(config_copy(&own, config));
    struct error e = read_mine(&s, p, &own, p);
    if (e.code == ERROR_NONE)
        e = photos_check(config);
    subject_free(&s);
    config_free(&own);
    return e;
}

void subject_log_choices(const struct subject *s)
{
    initializer_log(&s->initializer, &s->config);
    derivative_log(&s->config, s->pipeline, s->derivative_why);
    if (s->rate_was_auto)
        learning_rate_log(&s->config);
}

struct error subject_again(struct subject *s, struct pipeline *p, struct config *config, const struct subject *from)
{
    struct error e = read_mine(s, p, config, from->pipeline);
    if (e.code != ERROR_NONE)
        subject_free(s);
    else
        s->dataset = dataset_borrow(&from->dataset);
    return e;
}

void subject_free(struct subject *s)
{
    memory_free(s->start);
    initializer_free(&s->initializer);
    dataset_free(&s->dataset);
    tokenizer_free(s->tokenizer);
    memory_free(s->recipe);
    config_free(&s->config);
    *s = (struct subject){0};
}

/* -------------------------------------------------------------------------------- one subject */

/* This rank's part: the pipeline that a config asks for. */
static struct error open_mine(struct pipeline *p, const struct config *config, struct comm *comm,
                              const struct device_kind *devices, bool *opened)
{
    const struct pipeline_choice choice = pipeline_choice_of(config);
    comm_set_timeout(comm, config->cluster.timeout);
    struct error e = pipeline_open(p, &choice, comm, devices);
    *opened = e.code == ERROR_NONE;
    return e;
}

/* Photos come before the model's weights, which take longer to read. */
static struct error read_and_join(struct subject *s, struct pipeline *p, struct config *config, enum start start)
{
    TRY(subject_read(s, p, config, start));
    if (!p->simulated)
        TRY(pipeline_compare(p, &s->config));
    return pipeline_link(p, &s->config);
}

struct error subject_open(struct subject *s, struct pipeline *p, const char *config_path, const struct text_list *sets,
                          struct comm *comm, const struct device_kind *devices, enum start start)
{
    *s = (struct subject){0};
    struct config config;
    bool opened = false;
    struct error e = config_read(&config, config_path, sets);
    if (e.code == ERROR_NONE)
        e = open_mine(p, &config, comm, devices, &opened);
    e = comm_agree(comm, e);
    if (e.code == ERROR_NONE)
        e = read_and_join(s, p, &config, start);
    config_free(&config);
    if (e.code != ERROR_NONE) {
        subject_free(s);
        if (opened)
            pipeline_close(p);
    }
    return e;
}

void subject_close(struct subject *s)
{
    struct pipeline *p = s->pipeline;
    subject_free(s);
    pipeline_close(p);
}

/* -------------------------------------------------------------------------------- loading */

struct error subject_encode(struct subject *s)
{
    struct pipeline *p = s->pipeline;
    pipeline_log_encoding(p, p->comm, s->dataset.count, s->dataset.masked);
    struct vae vae;
    TRY(pipeline_vae(p, p->comm, true, false, &vae));
    struct progress progress;
    progress_phase(&progress, "encoding pictures", s->dataset.count, "");
    struct error e = dataset_encode(&s->dataset, p->device, &vae, p->comm, &progress, 0);
    progress_end(&progress);
    vae_free(&vae);
    return e;
}

/* Of pictures, with their masks, and captions as all ranks have them. */
static void find_contents(struct subject *s)
{
    const struct dataset *set = &s->dataset;
    uint32_t order = 0, any_order[2] = {0}; // sums in which the order does not count
    for (int64_t i = 0; i < set->count; i++) {
        const struct picture *picture = &set->pictures[i];
        int64_t pixels = picture->width * picture->height;
        uint32_t own = fingerprint_bytes(0, picture->rgb, pixels * 3);
        if (set->masked && set->masks[i])
            own = fingerprint_bytes(own, set->masks[i], pixels);
        order = fingerprint_bytes(order, &own, sizeof own);
        any_order[0] += own;
        any_order[1] ^= own;
    }
    origin_pictures(s->contents[ORIGIN_PICTURES], set->count, fingerprint_bytes(0, any_order, sizeof any_order));
    origin_crc(s->contents[ORIGIN_ORDER], order);
    origin_crc(s->contents[ORIGIN_CAPTIONS],
               fingerprint_bytes(0, set->ids, set->captions.count * set->length * (int64_t)sizeof *set->ids));
    origin_crc(s->contents[ORIGIN_MODEL], s->pipeline->contents);
}

static struct origin origin_of(const struct subject *s)
{
    return (struct origin){{
        [ORIGIN_RECIPE] = s->recipe,
        [ORIGIN_MODEL] = s->contents[ORIGIN_MODEL],
        [ORIGIN_PICTURES] = s->contents[ORIGIN_PICTURES],
        [ORIGIN_ORDER] = s->contents[ORIGIN_ORDER],
        [ORIGIN_CAPTIONS] = s->contents[ORIGIN_CAPTIONS],
        [ORIGIN_DEVICE] = device_model(s->pipeline->device),
    }};
}

struct origin subject_origin(struct subject *s)
{
    find_contents(s);
    return origin_of(s);
}

struct error subject_start(struct subject *s)
{
    find_contents(s);
    const struct text_encoder *text = &s->pipeline->text;
    int64_t vectors = s->config.token.vectors;
    s->start = memory_alloc(vectors * text->config.width, sizeof *s->start);
    struct error e =
        s->start ? initializer_rows(&s->initializer, text, vectors, s->start) : error_memory("the initializer");
    return comm_agree(s->pipeline->comm, e);
}

struct training_parts subject_parts(const struct subject *s)
{
    const struct pipeline *p = s->pipeline;
    device_set_tangents(p->device, tangent_bits(&s->config, p));
    return (struct training_parts){
        .config = &s->config,
        .comm = p->comm,
        .device = p->device,
        .dataset = &s->dataset,
        .text = &p->text,
        .unet = &p->unet,
        .schedule = &p->schedule,
        .scaling_factor = p->vae.scaling_factor,
        .first_id = s->first_id,
        .start = s->start,
        .origin = origin_of(s),
    };
}
