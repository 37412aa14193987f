/* forward MODEL_DIR IN.safetensors OUT.safetensors [--bits 32|16|8|4] [--device cpu|cuda]
 *         [--derivative tangent|difference] [--eps E] [--tangents 32|8]
 *
 * Runs the parts of a model whose inputs are present, so that anyone can compare them with diffusers. F32 and NCHW in
 * the files:
 *
 *     `input_ids` (I32 [B, n])                                             -> `hidden`
 *     `sample` [B, 4, h, w], `timestep` (I32 [B]), `encoder_hidden_states` -> `noise_pred`
 *     `pixels` [B, 3, H, W]                                                -> `latent_mean`, `latent_logvar`
 *     `latent`                                                             -> `image`
 *
 * With --derivative, each of B rows is a picture with one direction. Inputs: `input_ids` I32 [B, n], of which R, R + 1,
 * ... are the word's vectors, R being the rows of the text encoder's token table; `embedding`, the word, and
 * `directions` [B, vectors, dim]; `sample`, `timestep` and `target` like `sample`. Outputs: `loss` F64 [B], the mean
 * squared error of the prediction, and `slope` F64 [B], its derivative along the row's direction; `hidden` and
 * `noise_pred` with their derivatives `hidden_tangent` and `noise_pred_tangent`. Exact (tangent), or by the difference
 * between the word and the word moved by E, 1e-3 if not given, along the direction. --tangents: in how many bits.
 */
#include "forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/pool.h"
#include "derivative.h"
#include "device/kinds.h"
#include "files/safetensors_write.h"
#include "helper.h"
#include "model/text_encoder.h"
#include "model/unet.h"
#include "model/vae.h"

/* -------------------------------------------------------------------------------- the parts */

/* One run of a network: its body writes what it makes into a kept tensor. */
struct run {
    struct device *device;
    const struct text_encoder *text;
    const struct unet *unet;
    const struct vae *vae;
    struct unet_input unet_in;
    struct tensor in, rows, out;
    bool encode;
};

static void hand_out(struct run *r, struct tensor result)
{
    op_copy(r->device, r->out, result, (struct tensor){0});
    device_free(r->device, &result);
}

static struct error text_body(void *arg)
{
    struct run *r = arg;
    hand_out(r, text_encoder_forward(r->device, r->text, r->in, r->rows, INT32_MAX));
    return ok();
}

static struct error unet_body(void *arg)
{
    struct run *r = arg;
    hand_out(r, unet_forward(r->device, r->unet, &r->unet_in));
    return ok();
}

static struct error vae_body(void *arg)
{
    struct run *r = arg;
    hand_out(r, r->encode ? vae_encode(r->device, r->vae, r->in) : vae_decode(r->device, r->vae, r->in));
    return ok();
}

static struct error forward_text(struct job *job)
{
    const struct entry *entry;
    TRY(input(job, "input_ids", 2, &entry));
    int32_t *ids;
    TRY(integers(job, entry, &ids));
    struct text_encoder t;
    struct error e = text_encoder_load(&t, job->device, job->folder, job->bits, plain_store);
    if (e.code == ERROR_NONE) {
        struct run r = {.device = job->device, .text = &t};
        int64_t lanes = entry->shape[0], length = entry->shape[1];
        for (int64_t i = 0; i < entry->count && e.code == ERROR_NONE; i++)
            if (ids[i] < 0 || ids[i] >= t.config.vocab)
                e = error_input("%s: tensor input_ids: id %d is outside the vocabulary", job->in.path, ids[i]);
        if (length > t.config.positions)
            e = error_input("%s: tensor input_ids: longer than the model's %lld positions", job->in.path,
                            (long long)t.config.positions);
        if (e.code == ERROR_NONE)
            e = text_encoder_add_ids(job->device, &t, ids, entry->count);
        if (e.code == ERROR_NONE)
            e = device_alloc_state(job->device, I32, lanes, 1, length, 1, &r.in);
        if (e.code == ERROR_NONE)
            e = device_alloc_state(job->device, F32, lanes, 1, 1, t.config.width, &r.rows);
        if (e.code == ERROR_NONE)
            e = device_alloc_state(job->device, F32, lanes, 1, length, t.config.width, &r.out);
        if (e.code == ERROR_NONE) {
            device_write(job->device, r.in, ids);
            e = run_once(r.device, text_body, &r);
        }
        if (e.code == ERROR_NONE)
            e = give(job, "hidden", r.out, 0, t.config.width, true);
        device_free_state(job->device, &r.in);
        device_free_state(job->device, &r.rows);
        device_free_state(job->device, &r.out);
        text_encoder_free(&t);
    }
    memory_free(ids);
    return e;
}

static struct error fill_unet_input(struct job *job, struct run *r, const struct entry *sample,
                                    const struct entry *timestep, const struct entry *hidden)
{
    int64_t lanes = sample->shape[0];
    if (timestep->count != lanes || hidden->shape[0] != lanes)
        return error_input("%s: timestep and encoder_hidden_states: expected as many lanes as sample", job->in.path);
    if (sample->shape[1] != r->unet->config.in_channels || hidden->shape[2] != r->unet->config.cross_dim)
        return error_input("%s: sample or encoder_hidden_states: channels do not match unet/config.json", job->in.path);
    TRY(keep_picture(job, sample, &r->unet_in.sample));
    TRY(device_alloc_state(job->device, F32, lanes, 1, 1, 1, &r->unet_in.timestep));
    TRY(device_alloc_state(job->device, F32, lanes, 1, hidden->shape[1], hidden->shape[2], &r->unet_in.hidden));
    TRY(device_alloc_state(job->device, I32, 1, 1, 1, lanes, &r->unet_in.map));
    TRY(device_alloc_state(job->device, F32, lanes, sample->shape[2], sample->shape[3], r->unet->config.out_channels,
                           &r->out));
    int32_t *steps = NULL, *map = memory_alloc(lanes, sizeof *map);
    float *text = NULL, *wide = memory_alloc(lanes, sizeof *wide);
    struct error e = map && wide ? floats(job, hidden, &text) : error_memory("inputs");
    if (e.code == ERROR_NONE)
        e = integers(job, timestep, &steps);
    for (int64_t i = 0; i < lanes && e.code == ERROR_NONE; i++) {
        map[i] = (int32_t)i;
        wide[i] = (float)steps[i];
    }
    if (e.code == ERROR_NONE) {
        device_write(job->device, r->unet_in.timestep, wide);
        device_write(job->device, r->unet_in.hidden, text);
        device_write(job->device, r->unet_in.map, map);
        e = device_wait(job->device);
    }
    memory_free(steps);
    memory_free(map);
    memory_free(text);
    memory_free(wide);
    return e;
}

static struct error forward_unet(struct job *job)
{
    const struct entry *sample, *timestep, *hidden;
    TRY(input(job, "sample", 4, &sample));
    TRY(input(job, "timestep", 1, &timestep));
    TRY(input(job, "encoder_hidden_states", 3, &hidden));
    struct unet u;
    TRY(unet_load(&u, job->device, job->folder, job->bits, plain_store));
    struct run r = {.device = job->device, .unet = &u};
    struct error e = fill_unet_input(job, &r, sample, timestep, hidden);
    if (e.code == ERROR_NONE)
        e = run_once(r.device, unet_body, &r);
    if (e.code == ERROR_NONE)
        e = give(job, "noise_pred", r.out, 0, u.config.out_channels, false);
    device_free_state(job->device, &r.unet_in.sample);
    device_free_state(job->device, &r.unet_in.timestep);
    device_free_state(job->device, &r.unet_in.hidden);
    device_free_state(job->device, &r.unet_in.map);
    device_free_state(job->device, &r.out);
    unet_free(&u);
    return e;
}

static struct error forward_vae(struct job *job, const char *name, bool encode)
{
    const struct entry *entry;
    TRY(input(job, name, 4, &entry));
    struct vae v;
    TRY(vae_load(&v, job->device, job->folder, job->bits, encode, !encode, plain_store));
    struct run r = {.device = job->device, .vae = &v, .encode = encode};
    const int64_t *s = entry->shape, factor = v.config.factor, latent = v.config.latent_channels;
    struct error e = ok();
    if (s[1] != (encode ? v.config.in_channels : latent))
        e = error_input("%s: tensor %s: wrong number of channels", job->in.path, name);
    if (e.code == ERROR_NONE && encode && (s[2] < factor || s[3] < factor))
        e = error_input("%s: tensor %s: smaller than one latent", job->in.path, name);
    if (e.code == ERROR_NONE)
        e = keep_picture(job, entry, &r.in);
    if (e.code == ERROR_NONE && encode)
        e = device_alloc_state(job->device, F32, s[0], s[2] / factor, s[3] / factor, 2 * latent, &r.out);
    else if (e.code == ERROR_NONE)
        e = device_alloc_state(job->device, F32, s[0], s[2] * factor, s[3] * factor, v.config.out_channels, &r.out);
    if (e.code == ERROR_NONE)
        e = run_once(r.device, vae_body, &r);
    if (e.code == ERROR_NONE && encode) {
        e = give(job, "latent_mean", r.out, 0, latent, false);
        if (e.code == ERROR_NONE)
            e = give(job, "latent_logvar", r.out, latent, latent, false);
    } else if (e.code == ERROR_NONE) {
        e = give(job, "image", r.out, 0, v.config.out_channels, false);
    }
    device_free_state(job->device, &r.in);
    device_free_state(job->device, &r.out);
    vae_free(&v);
    return e;
}

/* -------------------------------------------------------------------------------- main */

static struct error forward_all(struct job *job)
{
    if (safetensors_find(&job->in, "input_ids"))
        TRY(forward_text(job));
    if (safetensors_find(&job->in, "sample"))
        TRY(forward_unet(job));
    if (safetensors_find(&job->in, "pixels"))
        TRY(forward_vae(job, "pixels", true));
    if (safetensors_find(&job->in, "latent"))
        TRY(forward_vae(job, "latent", false));
    if (job->out_count == 0)
        return error_input("%s: none of input_ids, sample, pixels, latent is here", job->in.path);
    return ok();
}

struct options {
    int bits;
    const char *device, *derivative, *eps, *tangents, *files[3];
    int file_count;
};

/* Where the value of an option belongs, or NULL. */
static const char **option(struct options *o, const char *name)
{
    if (strcmp(name, "--device") == 0)
        return &o->device;
    if (strcmp(name, "--derivative") == 0)
        return &o->derivative;
    if (strcmp(name, "--tangents") == 0)
        return &o->tangents;
    return strcmp(name, "--eps") == 0 ? &o->eps : NULL;
}

static struct error read_options(struct options *o, int argc, char **argv)
{
    *o = (struct options){.bits = 32, .device = "cpu"};
    for (int i = 1; i < argc; i++) {
        const char **value = option(o, argv[i]);
        if (strcmp(argv[i], "--bits") == 0 && i + 1 < argc)
            o->bits = atoi(argv[++i]);
        else if (value && i + 1 < argc)
            *value = argv[++i];
        else if (o->file_count < 3)
            o->files[o->file_count++] = argv[i];
    }
    if (o->file_count < 3 || (o->bits != 32 && o->bits != 16 && o->bits != 8 && o->bits != 4))
        return error_input("usage: forward MODEL_DIR IN.safetensors OUT.safetensors [--bits 32|16|8|4] [--device "
                           "cpu|cuda] [--derivative tangent|difference] [--eps E] [--tangents 32|8]");
    return ok();
}

static struct error forward_options(struct job *job, const struct options *o)
{
    if (!o->derivative)
        return o->eps ? error_input("--eps: is for --derivative difference") : forward_all(job);
    bool tangents = strcmp(o->derivative, "tangent") == 0;
    if (!tangents && strcmp(o->derivative, "difference") != 0)
        return error_input("--derivative: %s: expected tangent or difference", o->derivative);
    if (tangents && o->eps)
        return error_input("--eps: is for --derivative difference");
    char *end = NULL;
    double eps = o->eps ? strtod(o->eps, &end) : 1e-3;
    if ((end && *end) || !(eps > 0 && eps < INFINITY))
        return error_input("--eps: %s: expected a number above 0", o->eps);
    return forward_derivative(job, tangents, eps);
}

static struct error work(int argc, char **argv)
{
    struct options o;
    TRY(read_options(&o, argc, argv));
    struct job job = {.folder = o.files[0], .bits = o.bits};
    TRY(safetensors_open(&job.in, o.files[1]));
    struct error e = device_open(&job.device, device_kinds(), o.device, 0, pool_default_threads(1));
    if (e.code == ERROR_NONE) {
        device_set_tangents(job.device, o.tangents ? atoi(o.tangents) : 32);
        e = forward_options(&job, &o);
        device_close(job.device);
    }
    if (e.code == ERROR_NONE)
        e = safetensors_write(o.files[2], job.out, job.out_count, NULL, 0);
    for (int64_t i = 0; i < job.out_count; i++)
        memory_free((void *)job.out[i].data);
    safetensors_close(&job.in);
    return e;
}

int main(int argc, char **argv)
{
    return helper_end("forward", work(argc, argv));
}
