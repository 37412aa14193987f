#include "pipeline/pipeline.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/progress.h"
#include "cluster/shared_memory.h"
#include "files/file.h"
#include "model/contents.h"
#include "model/model_source.h"
#include "pipeline/gpu_link.h"
#include "pipeline/quant_cache.h"

/* -------------------------------------------------------------------------------- shared weights */

static struct error alloc_shared(void *arg, int64_t bytes, void **memory, bool *fill)
{
    return shared_memory_new(arg, bytes, memory, fill);
}

static struct error ready_shared(void *arg, struct error e)
{
    return comm_agree(arg, e);
}

static void free_shared(void *arg, void *memory, int64_t bytes)
{
    (void)arg;
    shared_memory_free(memory, bytes);
}

static struct store store_of(const struct pipeline *p, struct comm *comm)
{
    return p->simulated ? store_simulated() : (struct store){alloc_shared, ready_shared, free_shared, comm};
}

/* -------------------------------------------------------------------------------- opening */

struct pipeline_choice pipeline_choice_of(const struct config *config)
{
    return (struct pipeline_choice){
        .model = config->model,
        .tokenizer = config->tokenizer,
        .prediction = prediction_named(config->prediction),
        .device = config->device,
        .bits = (int)config->quant.bits,
        .bfloat = strcmp(config->quant.activations, "bf16") == 0,
        .cache = config->quant.cache,
        .cache_wait = fmin(300, config->cluster.timeout / 2),
        .encodes = true,
        .config = config,
    };
}

/* Names what gave a wrong value: the config's key or the option. */
static struct error blame(const struct pipeline_choice *choice, const char *key, struct error e)
{
    return choice->config ? config_blame(choice->config, key, e) : error_in(e, "--%s", key);
}

/* Checks that the parts fit together before any of them is loaded. */
static struct error check_parts(const struct pipeline *p)
{
    const struct unet_config *unet = &p->unet_config;
    const char *inside = model_is_file(p->model) ? ": " : "/";
    if (unet->cross_dim != p->text_config.width)
        return error_input("%s%sunet/config.json: cross_attention_dim: %lld, but the text encoder is %lld wide",
                           p->model, inside, (long long)unet->cross_dim, (long long)p->text_config.width);
    if (unet->in_channels != p->vae.latent_channels || unet->out_channels != p->vae.latent_channels)
        return error_input("%s%sunet/config.json: in_channels, out_channels: expected %lld, the VAE's latent_channels",
                           p->model, inside, (long long)p->vae.latent_channels);
    return ok();
}

static struct error load_tokenizer(struct pipeline *p)
{
    char folder[PATH_SIZE];
    const char *pads;
    TRY(model_tokenizer_load(&p->tokenizer, p->model, p->choice.tokenizer));
    int32_t size = tokenizer_size(p->tokenizer);
    if (size <= p->text_config.vocab)
        return ok();
    tokenizer_free(p->tokenizer);
    p->tokenizer = NULL;
    TRY(model_tokenizer_folder(folder, p->model, p->choice.tokenizer, &pads));
    return error_input("%s: %d tokens, but the text encoder's vocab_size is %lld", folder, size,
                       (long long)p->text_config.vocab);
}

static struct error read_settings(struct pipeline *p)
{
    TRY(blame(&p->choice, "model", model_check(p->model)));
    TRY(text_config_read(&p->text_config, p->model));
    TRY(unet_config_read(&p->unet_config, p->model, p->choice.prediction));
    TRY(vae_config_read(&p->vae, p->model));
    TRY(noise_schedule_read(&p->schedule, p->model, p->choice.prediction));
    noise_schedule_for_pictures(&p->schedule);
    if (p->choice.tokenizer)
        TRY(blame(&p->choice, "tokenizer", load_tokenizer(p)));
    else if (model_is_file(p->model))
        TRY(load_tokenizer(p));
    return check_parts(p);
}

static void note_bits(struct pipeline *p, const struct weights *part)
{
    p->least_bits = !p->least_bits || part->least_bits < p->least_bits ? part->least_bits : p->least_bits;
    p->most_bits = part->most_bits > p->most_bits ? part->most_bits : p->most_bits;
    p->quantizes |= part->quantizes;
}

/* Checks that every layer of every part exists and has its shape. */
static struct error check_weights(struct pipeline *p)
{
    struct text_encoder text;
    struct unet unet;
    struct vae vae;
    TRY(text_encoder_load(&text, p->device, p->model, p->choice.bits, store_nowhere()));
    note_bits(p, &text.weights);
    p->table_rms = text.table_rms;
    text_encoder_free(&text);
    TRY(unet_load(&unet, p->device, p->model, p->choice.bits, store_nowhere()));
    note_bits(p, &unet.weights);
    unet_free(&unet);
    TRY(vae_load(&vae, p->device, p->model, 0, p->choice.encodes, true, store_nowhere()));
    vae_free(&vae);
    return ok();
}

static struct error open_device(struct pipeline *p, const struct device_kind *devices)
{
    const struct pipeline_choice *c = &p->choice;
    struct progress progress;
    int threads = pool_default_threads(comm_local_size(p->all));
    progress_phase(&progress, "starting the device", 0, "");
    struct error e = p->simulated ? device_simulate(&p->device, strcmp(c->device, "cpu") == 0)
                                  : device_open(&p->device, devices, c->device, comm_local_rank(p->all), threads);
    progress_end(&progress);
    TRY(blame(c, "device", e));
    return blame(c, "quant.activations", device_set_activations(p->device, c->bfloat));
}

static struct error open_all(struct pipeline *p, const struct device_kind *devices)
{
    p->model = memory_string(p->choice.model);
    p->cache = p->choice.cache ? memory_string(p->choice.cache) : NULL;
    p->chosen_tokenizer = p->choice.tokenizer ? memory_string(p->choice.tokenizer) : NULL;
    if (!p->model || (p->choice.cache && !p->cache) || (p->choice.tokenizer && !p->chosen_tokenizer))
        return error_memory("the model's name");
    TRY(blame(&p->choice, "quant.cache", quant_cache_check(p->cache)));
    TRY(read_settings(p));
    TRY(open_device(p, devices));
    return check_weights(p);
}

struct error pipeline_open(struct pipeline *p, const struct pipeline_choice *choice, struct comm *all,
                           const struct device_kind *devices)
{
    *p = (struct pipeline){.all = all, .comm = all, .simulated = !devices, .choice = *choice};
    struct progress progress;
    progress_phase(&progress, "opening the model", 0, "");
    struct error e = open_all(p, devices);
    progress_end(&progress);
    p->choice.model = p->model;
    p->choice.cache = p->cache;
    p->choice.tokenizer = p->chosen_tokenizer;
    p->choice.config = NULL; // it need not outlive this call
    if (e.code != ERROR_NONE)
        pipeline_close(p);
    return e;
}

/* Either may be NULL. */
static bool texts_differ(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) != 0 : a != b;
}

/* The first key in which they differ, or NULL. */
static const char *find_difference(const struct pipeline_choice *a, const struct pipeline_choice *b)
{
    if (strcmp(a->model, b->model) != 0 && !path_same(a->model, b->model))
        return "model";
    if (strcmp(a->device, b->device) != 0)
        return "device";
    if (a->bits != b->bits)
        return "quant.bits";
    if (texts_differ(a->tokenizer, b->tokenizer))
        return "tokenizer";
    if (a->prediction != b->prediction)
        return "prediction";
    if (texts_differ(a->cache, b->cache))
        return "quant.cache";
    return a->bfloat != b->bfloat ? "quant.activations" : NULL;
}

const char *pipeline_difference(const struct config *a, const struct config *b)
{
    const struct pipeline_choice first = pipeline_choice_of(a), second = pipeline_choice_of(b);
    return find_difference(&first, &second);
}

struct error pipeline_serves(const struct pipeline *p, const struct config *config)
{
    const struct pipeline_choice other = pipeline_choice_of(config);
    const char *key = find_difference(&p->choice, &other);
    return key ? config_blame(config, key, error_input("differs from the loaded model's")) : ok();
}

struct error pipeline_recheck(struct pipeline *p)
{
    uint32_t stamp = contents_stamp(p->model);
    struct model_files now;
    double changed = stamp != p->stamp;
    TRY(comm_sum(p->comm, &changed, 1));
    if (changed == 0)
        return ok();
    TRY(fingerprint_model(p->comm, p->model, p->choice.tokenizer, &now));
    struct error e = ok();
    if (now.tensors != p->files.tensors || now.texts != p->files.texts)
        e = error_input("%s: holds another model than the one that was loaded from there; start again to learn with it",
                        p->model);
    TRY(comm_agree(p->comm, e));
    p->stamp = stamp;
    return ok();
}

struct error pipeline_tokenizer(struct pipeline *p, const struct tokenizer **tokenizer)
{
    if (!p->tokenizer)
        TRY(load_tokenizer(p));
    *tokenizer = p->tokenizer;
    return ok();
}

struct error pipeline_compare(struct pipeline *p, const struct config *config)
{
    p->stamp = contents_stamp(p->model); // first, so that what changes meanwhile is noticed
    TRY(fingerprint_model(p->all, p->model, p->choice.tokenizer, &p->files));
    p->contents = contents_settings(p->files.tensors, &p->text_config, &p->unet_config, &p->vae, &p->schedule);
    if (comm_size(p->all) == 1)
        return ok();
    char model[300];
    snprintf(model, sizeof model, "the model (%.250s)", p->model);
    const struct fingerprint fingerprints[] = {
        {"zoodip's version (" ZOODIP_VERSION ")", fingerprint_text(0, ZOODIP_VERSION)},
        {model, fingerprint_bytes(p->contents, &p->files.texts, sizeof p->files.texts)}};
    TRY(fingerprint_compare(p->all, fingerprints, sizeof fingerprints / sizeof *fingerprints));
    return gpu_link_check(p->all, p->device, config);
}

void pipeline_close(struct pipeline *p)
{
    pipeline_unload(p);
    tokenizer_free(p->tokenizer);
    noise_schedule_free(&p->schedule);
    device_close(p->device);
    memory_free(p->model);
    memory_free(p->cache);
    memory_free(p->chosen_tokenizer);
    if (p->comm != p->all)
        comm_close(p->comm);
    *p = (struct pipeline){0};
}

struct error pipeline_divide(struct pipeline *p, int group)
{
    return comm_split(p->all, group, &p->comm);
}

struct error pipeline_link(struct pipeline *p, const struct config *config)
{
    return gpu_link_open(p->comm, p->device, config);
}

/* -------------------------------------------------------------------------------- loading */

void pipeline_log_encoding(const struct pipeline *p, const struct comm *comm, int64_t pictures, int64_t masked)
{
    int ranks = comm_size(comm);
    char masks[64] = "";
    if (masked)
        snprintf(masks, sizeof masks, ", %lld with masks", (long long)masked);
    if (comm_rank(comm) == 0 && !p->simulated)
        log_line("%s, %d rank%s; encoding %lld pictures%s", device_name(p->device), ranks, ranks == 1 ? "" : "s",
                 (long long)pictures, masks);
}

struct error pipeline_vae(struct pipeline *p, struct comm *comm, bool encoder, bool decoder, struct vae *vae)
{
    struct error mine = vae_load(vae, p->device, p->model, 0, encoder, decoder, store_of(p, comm));
    struct error e = comm_agree(comm, mine);
    if (e.code != ERROR_NONE && mine.code == ERROR_NONE)
        vae_free(vae);
    return e;
}

void pipeline_log_loading(const struct pipeline *p)
{
    char least[24] = "";
    if (comm_rank(p->all) != 0)
        return;
    if (p->least_bits < p->most_bits)
        snprintf(least, sizeof least, "%d- to ", p->least_bits);
    log_line("loading text encoder and UNet with %s%d-bit weights", least, p->most_bits);
}

struct error pipeline_load(struct pipeline *p)
{
    int bits = p->choice.bits;
    char folder[PATH_SIZE];
    TRY(quant_cache_find(p, folder));
    TRY(comm_agree(p->all, text_encoder_load(&p->text, p->device, folder, bits, store_of(p, p->all))));
    return comm_agree(p->all, unet_load(&p->unet, p->device, folder, bits, store_of(p, p->all)));
}

void pipeline_unload(struct pipeline *p)
{
    unet_free(&p->unet);
    text_encoder_free(&p->text);
}
