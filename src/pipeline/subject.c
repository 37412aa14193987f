#include "pipeline/subject.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "files/file.h"
#include "model/embedding.h"
#include "model/sampler.h"
#include "pipeline/fingerprint.h"

/* -------------------------------------------------------------------------------- reading */

/* Does the model's schedule have that many steps? Asked now, since pictures come at the very end. */
static struct error check_sampler(const struct subject *s)
{
    const struct config *c = &s->config;
    struct sampler trial;
    if (c->output.prompts.count == 0)
        return ok();
    TRY(config_blame(c, "output.sample_steps",
                     sampler_new(&trial, &s->pipeline->schedule, sampler_default(), c->output.sample_steps, 1)));
    sampler_free(&trial);
    return ok();
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
    s->resolution = c->data.resolution ? c->data.resolution : p->unet_config.sample_size * p->vae.factor;
    if (s->resolution % p->vae.factor != 0)
        return config_blame(c, "data.resolution",
                            error_input("is %lld, expected a multiple of %lld, the VAE's factor",
                                        (long long)s->resolution, (long long)p->vae.factor));
    return check_sampler(s);
}

/* One token that the model knows. */
static struct error read_initializer(struct subject *s)
{
    const char *word = s->config.token.initializer;
    int64_t count;
    TRY(tokenizer_pieces(s->tokenizer, word, &s->initializer_id, 1, &count));
    if (count != 1)
        return error_input("\"%.200s\" is %lld tokens for this model; expected a word that is one token", word,
                           (long long)count);
    if (s->initializer_id >= s->pipeline->text_config.vocab)
        return error_input("\"%.200s\" has no row in the model's token embedding", word);
    return ok();
}

/* The word becomes new tokens. */
static struct error read_words(struct subject *s)
{
    const struct config *c = &s->config;
    int64_t vocab = s->pipeline->text_config.vocab;
    char folder[PATH_SIZE];
    TRY(path_join(folder, c->model, "tokenizer"));
    TRY(tokenizer_load(&s->tokenizer, folder));
    TRY(config_blame(c, "token.initializer", read_initializer(s)));
    int32_t size = tokenizer_size(s->tokenizer);
    if (size > vocab)
        return error_input("%s: %d tokens, but the text encoder's vocab_size is %lld", folder, size, (long long)vocab);
    return config_blame(c, "token.placeholder",
                        embedding_add_tokens(s->tokenizer, c->token.placeholder, c->token.vectors, &s->first_id));
}

static struct error read_all(struct subject *s)
{
    const struct config *c = &s->config;
    s->recipe = config_recipe(c);
    if (!s->recipe)
        return error_memory("the recipe");
    TRY(check_model(s));
    TRY(read_words(s));
    return dataset_read(&s->dataset, c, s->tokenizer, s->first_id, s->resolution, s->pipeline->text_config.positions);
}

struct error subject_read(struct subject *s, struct pipeline *p, struct config *config)
{
    *s = (struct subject){.pipeline = p, .config = *config};
    *config = (struct config){0};
    struct error e = read_all(s);
    if (e.code != ERROR_NONE)
        subject_free(s);
    return e;
}

struct error subject_compare(const struct subject *s)
{
    const struct dataset *set = &s->dataset;
    const struct texts *images = &s->config.data.images;
    uint32_t pictures = 0;
    for (int64_t i = 0; i < set->count; i++) {
        const struct picture *picture = &set->pictures[i];
        pictures = fingerprint_bytes(pictures, picture->rgb, picture->width * picture->height * 3);
    }
    uint32_t captions = fingerprint_bytes(0, set->ids, set->captions.count * set->length * (int64_t)sizeof *set->ids);
    // all of it, not only the recipe: steps, prompts and so on decide how often the ranks meet
    char *config = config_json(&s->config);
    TRY(comm_agree(s->pipeline->all, config ? ok() : error_memory("the config")));
    uint32_t keys = fingerprint_text(0, config);
    memory_free(config);
    char named[300];
    snprintf(named, sizeof named, "the pictures (%.250s)", images->items[0]);
    const struct fingerprint fingerprints[] = {{"the config", keys}, {named, pictures}, {"the captions", captions}};
    return fingerprint_compare(s->pipeline->all, fingerprints, sizeof fingerprints / sizeof *fingerprints);
}

void subject_free(struct subject *s)
{
    memory_free(s->initializer);
    dataset_free(&s->dataset);
    tokenizer_free(s->tokenizer);
    memory_free(s->recipe);
    config_free(&s->config);
    *s = (struct subject){0};
}

/* -------------------------------------------------------------------------------- one subject */

/* This rank's part; *opened: the pipeline is open. */
static struct error open_mine(struct subject *s, struct pipeline *p, struct config *config, struct comm *comm,
                              const struct device_kind *devices, bool *opened)
{
    const struct pipeline_choice choice = pipeline_choice_of(config);
    struct error e = pipeline_open(p, &choice, comm, devices);
    *opened = e.code == ERROR_NONE;
    return *opened ? subject_read(s, p, config) : e;
}

/* The ranks have all read theirs: whether they read the same, and how they exchange losses. */
static struct error join_ranks(const struct subject *s, struct pipeline *p)
{
    if (!p->simulated) {
        TRY(pipeline_compare(p, &s->config));
        TRY(subject_compare(s));
    }
    return pipeline_link(p, &s->config);
}

struct error subject_open(struct subject *s, struct pipeline *p, const char *config_path, const struct text_list *sets,
                          struct comm *comm, const struct device_kind *devices)
{
    *s = (struct subject){0};
    struct config config;
    bool opened = false;
    struct error e = config_read(&config, config_path, sets);
    if (e.code == ERROR_NONE) {
        comm_set_timeout(comm, config.cluster.timeout);
        e = open_mine(s, p, &config, comm, devices, &opened);
        config_free(&config);
    }
    e = comm_agree(comm, e);
    if (e.code == ERROR_NONE)
        e = join_ranks(s, p);
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
    pipeline_log_encoding(p, p->comm, s->dataset.count);
    struct vae vae;
    TRY(pipeline_vae(p, p->comm, true, false, &vae));
    struct error e = dataset_encode(&s->dataset, p->device, &vae, p->comm);
    vae_free(&vae);
    return e;
}

struct error subject_start(struct subject *s)
{
    const struct text_encoder *text = &s->pipeline->text;
    s->initializer = memory_alloc(text->config.width, sizeof *s->initializer);
    struct error e =
        s->initializer ? text_encoder_row(text, s->initializer_id, s->initializer) : error_memory("the initializer");
    return comm_agree(s->pipeline->comm, e);
}

struct training_parts subject_parts(const struct subject *s)
{
    const struct pipeline *p = s->pipeline;
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
        .initializer = s->initializer,
        .recipe = s->recipe,
    };
}
