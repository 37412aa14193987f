#include "commands/subject.h"

#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/pool.h"
#include "commands/join.h"
#include "files/file.h"
#include "model/embedding.h"

/* ---------------------------------------------------------------------------------------------------- shared weights
 */

static struct error take_shared(void *arg, int64_t bytes, void **memory, bool *fill)
{
    return comm_shared(arg, bytes, memory, fill);
}

static struct error ready_shared(void *arg, struct error e)
{
    return comm_agree(arg, e);
}

static void give_shared(void *arg, void *memory, int64_t bytes)
{
    comm_shared_free(arg, memory, bytes);
}

/* Weights that are measured, not packed. */
static struct error take_nothing(void *arg, int64_t bytes, void **memory, bool *fill)
{
    (void)arg;
    (void)bytes;
    *memory = NULL;
    *fill = false;
    return ok();
}

struct store subject_store(const struct subject *s)
{
    return (struct store){s->planned ? take_nothing : take_shared, ready_shared, give_shared, s->comm};
}

/* ---------------------------------------------------------------------------------------------------- reading */

/* The parts must fit one another before any of them is loaded. */
static struct error check_parts(struct subject *s, const struct text_config *text, const struct unet_config *unet)
{
    const struct config *c = &s->config;
    if (unet->cross_dim != text->width)
        return error_input("%s/unet/config.json: cross_attention_dim: %lld, but the text encoder is %lld wide",
                           c->model, (long long)unet->cross_dim, (long long)text->width);
    if (unet->in_channels != s->vae.latent_channels || unet->out_channels != s->vae.latent_channels)
        return error_input("%s/unet/config.json: in_channels, out_channels: expected %lld, the VAE's latent_channels",
                           c->model, (long long)s->vae.latent_channels);
    s->resolution = c->data.resolution ? c->data.resolution : unet->sample_size * s->vae.factor;
    if (s->resolution % s->vae.factor != 0)
        return error_input("data.resolution: %lld: expected a multiple of %lld, the VAE's factor",
                           (long long)s->resolution, (long long)s->vae.factor);
    return ok();
}

/* The word becomes new tokens; the initializer must be one that the model knows. */
static struct error read_words(struct subject *s, const struct text_config *text)
{
    const struct config *c = &s->config;
    char folder[4096];
    TRY(path_join(folder, c->model, "tokenizer"));
    TRY(tokenizer_load(&s->tokenizer, folder));
    int64_t count;
    TRY(tokenizer_pieces(s->tokenizer, c->token.initializer, &s->initializer_id, 1, &count));
    if (count != 1)
        return error_input("token.initializer: \"%s\" is %lld tokens for this model; expected a word that is one token",
                           c->token.initializer, (long long)count);
    if (s->initializer_id >= text->vocab)
        return error_input("token.initializer: \"%s\" has no row in the model's token embedding", c->token.initializer);
    int32_t size = tokenizer_size(s->tokenizer);
    if (size > text->vocab)
        return error_input("%s: %d tokens, but text_encoder/config.json: vocab_size is %lld", folder, size,
                           (long long)text->vocab);
    return error_in(embedding_add_tokens(s->tokenizer, c->token.placeholder, c->token.vectors, &s->first_id),
                    "token.placeholder");
}

/* Every layer of every part is there and has its shape. */
static struct error check_weights(struct subject *s)
{
    const char *model = s->config.model;
    int bits = (int)s->config.quant.bits;
    struct text_encoder text;
    struct unet unet;
    struct vae vae;
    TRY(text_encoder_load(&text, s->device, model, bits, store_nowhere()));
    text_encoder_free(&text);
    TRY(unet_load(&unet, s->device, model, bits, store_nowhere()));
    unet_free(&unet);
    TRY(vae_load(&vae, s->device, model, 0, true, true, store_nowhere()));
    vae_free(&vae);
    return ok();
}

static struct error open_device(struct subject *s)
{
    const struct config *c = &s->config;
    int threads = pool_default_threads(comm_ranks_here(s->comm));
    if (s->planned)
        TRY(device_plan(&s->device));
    else
        TRY(device_open(&s->device, c->device, comm_rank_here(s->comm), threads));
    return error_in(device_activations(s->device, strcmp(c->quant.activations, "bf16") == 0), "quant.activations");
}

static struct error read_all(struct subject *s)
{
    const struct config *c = &s->config;
    if (!folder_exists(c->model))
        return error_input("model: %s: no such folder; expected a diffusers model folder", c->model);
    struct text_config text;
    struct unet_config unet;
    TRY(text_config_read(&text, c->model));
    TRY(unet_config_read(&unet, c->model));
    TRY(vae_config_read(&s->vae, c->model));
    TRY(noise_schedule_read(&s->schedule, c->model));
    noise_schedule_as_pipeline(&s->schedule);
    if (c->zo.timesteps[1] > s->schedule.steps)
        return error_input("zo.timesteps: %lld: the model's scheduler has %lld timesteps",
                           (long long)c->zo.timesteps[1], (long long)s->schedule.steps);
    TRY(check_parts(s, &text, &unet));
    TRY(read_words(s, &text));
    TRY(open_device(s));
    TRY(check_weights(s));
    return dataset_read(&s->dataset, c, s->tokenizer, s->first_id, s->resolution, text.positions);
}

static struct error read_subject(struct subject *s, const char *config_path, const char *const *sets, int64_t set_count)
{
    struct comm *comm = s->comm;
    struct error e = config_read(&s->config, config_path, sets, set_count);
    if (e.code == ERROR_NONE) {
        s->recipe = config_recipe(&s->config);
        e = s->recipe ? read_all(s) : error_memory("the recipe");
        if (e.code != ERROR_NONE && e.code == ERROR_BAD_INPUT && strncmp(e.text, config_path, strlen(config_path)) != 0)
            e = error_in(e, "%s", config_path);
    }
    e = comm_agree(comm, e);
    if (e.code == ERROR_NONE)
        e = join_ranks(comm, s->device, s->config.cluster.timeout);
    if (e.code != ERROR_NONE)
        subject_free(s);
    return e;
}

struct error subject_read(struct subject *s, const char *config_path, const char *const *sets, int64_t set_count,
                          struct comm *comm)
{
    *s = (struct subject){.comm = comm};
    return read_subject(s, config_path, sets, set_count);
}

struct error subject_read_planned(struct subject *s, const char *config_path, const char *const *sets,
                                  int64_t set_count, struct comm *comm)
{
    *s = (struct subject){.comm = comm, .planned = true};
    return read_subject(s, config_path, sets, set_count);
}

/* ---------------------------------------------------------------------------------------------------- loading */

struct error subject_encode(struct subject *s)
{
    if (comm_rank(s->comm) == 0 && !s->planned)
        log_line("%s, %d rank%s; encoding %lld pictures", device_name(s->device), comm_size(s->comm),
                 comm_size(s->comm) == 1 ? "" : "s", (long long)s->dataset.count);
    struct vae vae;
    TRY(comm_agree(s->comm, vae_load(&vae, s->device, s->config.model, 0, true, false, subject_store(s))));
    struct error e = dataset_encode(&s->dataset, s->device, &vae, s->comm);
    vae_free(&vae);
    return e;
}

struct error subject_load(struct subject *s)
{
    const struct config *c = &s->config;
    int bits = (int)c->quant.bits;
    if (comm_rank(s->comm) == 0 && !s->planned)
        log_line("loading text encoder and UNet with %d-bit weights", bits);
    TRY(comm_agree(s->comm, text_encoder_load(&s->text, s->device, c->model, bits, subject_store(s))));
    TRY(comm_agree(s->comm, unet_load(&s->unet, s->device, c->model, bits, subject_store(s))));
    s->initializer = memory_take(s->text.config.width, sizeof *s->initializer);
    struct error e = s->initializer ? text_encoder_token(&s->text, s->initializer_id, s->initializer)
                                    : error_memory("the initializer");
    return comm_agree(s->comm, e);
}

struct training_parts subject_parts(const struct subject *s)
{
    return (struct training_parts){
        .config = &s->config,
        .comm = s->comm,
        .device = s->device,
        .dataset = &s->dataset,
        .text = &s->text,
        .unet = &s->unet,
        .schedule = &s->schedule,
        .scaling_factor = s->vae.scaling_factor,
        .first_id = s->first_id,
        .initializer = s->initializer,
        .recipe = s->recipe,
    };
}

void subject_unload(struct subject *s)
{
    unet_free(&s->unet);
    text_encoder_free(&s->text);
}

void subject_free(struct subject *s)
{
    memory_free(s->initializer);
    subject_unload(s);
    dataset_free(&s->dataset);
    noise_schedule_free(&s->schedule);
    tokenizer_free(s->tokenizer);
    device_close(s->device);
    memory_free(s->recipe);
    config_free(&s->config);
    *s = (struct subject){0};
}
