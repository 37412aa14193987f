/* forward MODEL_DIR IN.safetensors OUT.safetensors [--bits 32|16|8|4] [--device cpu|cuda]
 *
 * Runs the parts of a model whose inputs are present, so that anyone can compare them with diffusers. F32 and NCHW in
 * the files:
 *
 *     `input_ids` (I32 [B, n])                                             -> `hidden`
 *     `sample` [B, 4, h, w], `timestep` (I32 [B]), `encoder_hidden_states` -> `noise_pred`
 *     `pixels` [B, 3, H, W]                                                -> `latent_mean`, `latent_logvar`
 *     `latent`                                                             -> `image`
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/pool.h"
#include "device/kinds.h"
#include "files/safetensors.h"
#include "files/safetensors_write.h"
#include "helper.h"
#include "model/text_encoder.h"
#include "model/unet.h"
#include "model/vae.h"

enum { OUTPUTS = 5 };

struct job {
    const char *folder;
    int bits;
    struct device *device;
    struct safetensors in;
    struct entry out[OUTPUTS];
    int64_t out_count;
};

/* -------------------------------------------------------------------------------- weights in plain memory */

static struct error alloc_plain(void *arg, int64_t bytes, void **memory, bool *fill)
{
    (void)arg;
    *memory = memory_alloc(bytes, 1);
    *fill = true;
    return *memory ? ok() : error_memory("the model's weights");
}

static struct error ready_plain(void *arg, struct error e)
{
    (void)arg;
    return e;
}

static void free_plain(void *arg, void *memory, int64_t bytes)
{
    (void)arg;
    (void)bytes;
    memory_free(memory);
}

static const struct store plain_store = {alloc_plain, ready_plain, free_plain, NULL};

/* -------------------------------------------------------------------------------- inputs, outputs */

static struct error input(const struct job *job, const char *name, int dimensions, const struct entry **entry)
{
    *entry = safetensors_find(&job->in, name);
    if (!*entry)
        return error_input("%s: tensor %s: is missing", job->in.path, name);
    if ((*entry)->dimensions != dimensions || (*entry)->count == 0)
        return error_input("%s: tensor %s: expected %d dimensions", job->in.path, name, dimensions);
    return ok();
}

static struct error floats(const struct job *job, const struct entry *entry, float **out)
{
    if (entry->type == I64 || entry->type == I32 || entry->type == U8 || entry->type == BOOL || entry->type == I16)
        return error_input("%s: tensor %s: expected floats", job->in.path, entry->name);
    *out = memory_alloc(entry->count, sizeof **out);
    if (!*out)
        return error_memory(entry->name);
    dtype_to_float(*out, entry->data, entry->type, entry->count);
    return ok();
}

static struct error integers(const struct job *job, const struct entry *entry, int32_t **out)
{
    if (entry->type != I32 && entry->type != I64)
        return error_input("%s: tensor %s: expected I32", job->in.path, entry->name);
    *out = memory_alloc(entry->count, sizeof **out);
    if (!*out)
        return error_memory(entry->name);
    for (int64_t i = 0; i < entry->count; i++) {
        int64_t wide;
        if (entry->type == I32)
            memcpy(*out + i, (const char *)entry->data + 4 * i, 4);
        else {
            memcpy(&wide, (const char *)entry->data + 8 * i, 8);
            (*out)[i] = (int32_t)wide;
        }
    }
    return ok();
}

/* [lanes, a, b] -> [lanes, b, a] */
static void transpose(float *to, const float *from, int64_t lanes, int64_t a, int64_t b)
{
    for (int64_t l = 0; l < lanes; l++)
        for (int64_t i = 0; i < a; i++)
            for (int64_t j = 0; j < b; j++)
                to[(l * b + j) * a + i] = from[(l * a + i) * b + j];
}

/* An NCHW picture from the file onto the device, NHWC. */
static struct error keep_picture(struct job *job, const struct entry *entry, struct tensor *t)
{
    float *nchw, *nhwc = memory_alloc(entry->count, sizeof *nhwc);
    const int64_t *s = entry->shape;
    struct error e = nhwc ? floats(job, entry, &nchw) : error_memory(entry->name);
    if (e.code == ERROR_NONE) {
        transpose(nhwc, nchw, s[0], s[1], s[2] * s[3]);
        e = device_alloc_state(job->device, F32, s[0], s[2], s[3], s[1], t);
        if (e.code == ERROR_NONE) {
            device_write(job->device, *t, nhwc);
            e = device_wait(job->device);
        }
        memory_free(nchw);
    }
    memory_free(nhwc);
    return e;
}

/* Adds channels [first, first + count) of a device tensor to the outputs, NCHW; as tokens [lanes, width, channels]
 * where `tokens`. */
static struct error give(struct job *job, const char *name, struct tensor t, int64_t first, int64_t count, bool tokens)
{
    int64_t places = t.height * t.width, total = t.lanes * places * t.channels;
    float *all = memory_alloc(total, sizeof *all), *picked = memory_alloc(t.lanes * places * count, sizeof *picked);
    float *out = memory_alloc(t.lanes * places * count, sizeof *out);
    struct error e = all && picked && out ? ok() : error_memory(name);
    if (e.code == ERROR_NONE) {
        device_read(job->device, all, t);
        e = device_wait(job->device);
    }
    if (e.code == ERROR_NONE) {
        for (int64_t i = 0; i < t.lanes * places; i++)
            memcpy(picked + i * count, all + i * t.channels + first, (size_t)count * sizeof *picked);
        struct entry *entry = &job->out[job->out_count++];
        *entry =
            (struct entry){.name = name, .type = F32, .dimensions = tokens ? 3 : 4, .count = t.lanes * places * count};
        if (tokens) {
            memcpy(out, picked, (size_t)entry->count * sizeof *out);
            memcpy(entry->shape, (int64_t[]){t.lanes, places, count}, 3 * sizeof(int64_t));
        } else {
            transpose(out, picked, t.lanes, places, count);
            memcpy(entry->shape, (int64_t[]){t.lanes, count, t.height, t.width}, 4 * sizeof(int64_t));
        }
        entry->data = out;
        out = NULL;
    }
    memory_free(all);
    memory_free(picked);
    memory_free(out);
    return e;
}

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

static struct error run_once(struct run *r, struct error (*body)(void *))
{
    struct program *program;
    TRY(program_new(r->device, body, r, &program));
    struct error e = program_run(program);
    if (e.code == ERROR_NONE)
        e = device_wait(r->device);
    program_free(program);
    return e;
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
            e = run_once(&r, text_body);
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
        e = run_once(&r, unet_body);
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
        e = run_once(&r, vae_body);
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

static struct error work(int argc, char **argv)
{
    struct job job = {.bits = 32};
    const char *kind = "cpu", *files[3] = {0};
    int file_count = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--bits") == 0 && i + 1 < argc)
            job.bits = atoi(argv[++i]);
        else if (strcmp(argv[i], "--device") == 0 && i + 1 < argc)
            kind = argv[++i];
        else if (file_count < 3)
            files[file_count++] = argv[i];
    }
    if (file_count < 3 || (job.bits != 32 && job.bits != 16 && job.bits != 8 && job.bits != 4))
        return error_input(
            "usage: forward MODEL_DIR IN.safetensors OUT.safetensors [--bits 32|16|8|4] [--device cpu|cuda]");
    job.folder = files[0];
    TRY(safetensors_open(&job.in, files[1]));
    struct error e = device_open(&job.device, device_kinds(), kind, 0, pool_default_threads(1));
    if (e.code == ERROR_NONE) {
        e = forward_all(&job);
        device_close(job.device);
    }
    if (e.code == ERROR_NONE)
        e = safetensors_write(files[2], job.out, job.out_count, NULL, 0);
    for (int64_t i = 0; i < job.out_count; i++)
        memory_free((void *)job.out[i].data);
    safetensors_close(&job.in);
    return e;
}

int main(int argc, char **argv)
{
    return helper_end("forward", work(argc, argv));
}
