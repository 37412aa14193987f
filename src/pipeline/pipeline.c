#include "pipeline/pipeline.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/pool.h"
#include "cluster/shared_memory.h"
#include "model/model_folder.h"
#include "pipeline/fingerprint.h"
#include "pipeline/gpu_link.h"

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

static struct store store_of(const struct pipeline *w, struct comm *comm)
{
    return w->simulated ? store_simulated() : (struct store){alloc_shared, ready_shared, free_shared, comm};
}

/* -------------------------------------------------------------------------------- opening */

/* Checks that the parts fit together before any of them is loaded. */
static struct error check_parts(const struct pipeline *w)
{
    const struct unet_config *unet = &w->unet_config;
    if (unet->cross_dim != w->text_config.width)
        return error_input("%s/unet/config.json: cross_attention_dim: %lld, but the text encoder is %lld wide",
                           w->config.model, (long long)unet->cross_dim, (long long)w->text_config.width);
    if (unet->in_channels != w->vae.latent_channels || unet->out_channels != w->vae.latent_channels)
        return error_input("%s/unet/config.json: in_channels, out_channels: expected %lld, the VAE's latent_channels",
                           w->config.model, (long long)w->vae.latent_channels);
    return ok();
}

static struct error read_settings(struct pipeline *w)
{
    TRY(config_blame(&w->config, "model", model_folder_check(w->config.model)));
    TRY(text_config_read(&w->text_config, w->config.model));
    TRY(unet_config_read(&w->unet_config, w->config.model));
    TRY(vae_config_read(&w->vae, w->config.model));
    TRY(noise_schedule_read(&w->schedule, w->config.model));
    noise_schedule_for_pictures(&w->schedule);
    return check_parts(w);
}

static void note_bits(struct pipeline *w, const struct weights *part)
{
    w->least_bits = !w->least_bits || part->least_bits < w->least_bits ? part->least_bits : w->least_bits;
    w->most_bits = part->most_bits > w->most_bits ? part->most_bits : w->most_bits;
}

/* Checks that every layer of every part exists and has its shape. */
static struct error check_weights(struct pipeline *w)
{
    struct text_encoder text;
    struct unet unet;
    struct vae vae;
    TRY(text_encoder_load(&text, w->device, w->config.model, (int)w->config.quant.bits, store_nowhere()));
    note_bits(w, &text.weights);
    text_encoder_free(&text);
    TRY(unet_load(&unet, w->device, w->config.model, (int)w->config.quant.bits, store_nowhere()));
    note_bits(w, &unet.weights);
    unet_free(&unet);
    TRY(vae_load(&vae, w->device, w->config.model, 0, true, true, store_nowhere()));
    vae_free(&vae);
    return ok();
}

static struct error open_device(struct pipeline *w, const struct device_kind *devices)
{
    const struct config *c = &w->config;
    int threads = pool_default_threads(comm_local_size(w->all));
    struct error e = w->simulated ? device_simulate(&w->device)
                                  : device_open(&w->device, devices, c->device, comm_local_rank(w->all), threads);
    TRY(config_blame(c, "device", e));
    return config_blame(c, "quant.activations",
                        device_set_activations(w->device, strcmp(c->quant.activations, "bf16") == 0));
}

const char *pipeline_key(const struct config *a, const struct config *b)
{
    if (strcmp(a->model, b->model) != 0)
        return "model";
    if (strcmp(a->device, b->device) != 0)
        return "device";
    if (a->quant.bits != b->quant.bits)
        return "quant.bits";
    return strcmp(a->quant.activations, b->quant.activations) != 0 ? "quant.activations" : NULL;
}

struct error pipeline_serves(const struct pipeline *w, const struct config *config)
{
    const char *key = pipeline_key(&w->config, config);
    return key ? config_blame(config, key, error_input("differs from the loaded model's")) : ok();
}

struct error pipeline_open(struct pipeline *w, const struct config *c, struct comm *all,
                           const struct device_kind *devices)
{
    *w = (struct pipeline){.all = all, .comm = all, .simulated = !devices};
    struct error e = config_copy(&w->config, c);
    if (e.code == ERROR_NONE)
        e = read_settings(w);
    if (e.code == ERROR_NONE)
        e = open_device(w, devices);
    if (e.code == ERROR_NONE)
        e = check_weights(w);
    if (e.code != ERROR_NONE)
        pipeline_close(w);
    return e;
}

struct error pipeline_compare(struct pipeline *w)
{
    if (comm_size(w->all) == 1) // there is no other rank to differ from, and marking a large model takes seconds
        return ok();
    char model[300];
    snprintf(model, sizeof model, "the model (%.250s)", w->config.model);
    const struct fingerprint marks[] = {{"zoodip's version (" ZOODIP_VERSION ")", fingerprint_text(0, ZOODIP_VERSION)},
                                        {model, fingerprint_model(w->config.model)}};
    TRY(fingerprint_compare(w->all, marks, sizeof marks / sizeof *marks));
    return gpu_link_check(w->all, w->device, &w->config);
}

void pipeline_close(struct pipeline *w)
{
    pipeline_unload(w);
    noise_schedule_free(&w->schedule);
    device_close(w->device);
    config_free(&w->config);
    if (w->comm != w->all)
        comm_close(w->comm);
    *w = (struct pipeline){0};
}

struct error pipeline_divide(struct pipeline *w, int group)
{
    return comm_split(w->all, group, &w->comm);
}

struct error pipeline_link(struct pipeline *w, double limit)
{
    return gpu_link_open(w->comm, w->device, &w->config, limit);
}

/* -------------------------------------------------------------------------------- loading */

void pipeline_announce(const struct pipeline *w, const struct comm *comm, int64_t pictures)
{
    int ranks = comm_size(comm);
    if (comm_rank(comm) == 0 && !w->simulated)
        log_line("%s, %d rank%s; encoding %lld pictures", device_name(w->device), ranks, ranks == 1 ? "" : "s",
                 (long long)pictures);
}

struct error pipeline_vae(struct pipeline *w, struct comm *comm, bool encoder, bool decoder, struct vae *vae)
{
    struct error mine = vae_load(vae, w->device, w->config.model, 0, encoder, decoder, store_of(w, comm));
    struct error e = comm_agree(comm, mine);
    if (e.code != ERROR_NONE && mine.code == ERROR_NONE)
        vae_free(vae);
    return e;
}

static void say_loading(const struct pipeline *w)
{
    char least[24] = "";
    if (w->least_bits < w->most_bits)
        snprintf(least, sizeof least, "%d- to ", w->least_bits);
    log_line("loading text encoder and UNet with %s%d-bit weights", least, w->most_bits);
}

struct error pipeline_load(struct pipeline *w)
{
    int bits = (int)w->config.quant.bits;
    if (comm_rank(w->all) == 0 && !w->simulated)
        say_loading(w);
    TRY(comm_agree(w->all, text_encoder_load(&w->text, w->device, w->config.model, bits, store_of(w, w->all))));
    return comm_agree(w->all, unet_load(&w->unet, w->device, w->config.model, bits, store_of(w, w->all)));
}

void pipeline_unload(struct pipeline *w)
{
    unet_free(&w->unet);
    text_encoder_free(&w->text);
}
