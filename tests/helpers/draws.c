/* draws CONFIG.json STEP OUT.safetensors [STEP OUT.safetensors]...
 *
 * For each pair, what step STEP (from 1) of a run draws: `picture`, `flip`, `timestep` I32 [B], `input_ids` I32 [B,
 * length], `posterior`, `noise` F32 [B, channels, h, w], `directions` F32 [n, vectors, width], or [n B, ..] if each
 * picture has its own. Pictures are numbered by the order of their names. With zo.directions table or text the run has
 * been made, and a checkpoint of the step has the basis.
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "device/kinds.h"
#include "files/file.h"
#include "files/safetensors.h"
#include "files/safetensors_write.h"
#include "helper.h"
#include "pipeline/subject.h"
#include "zo/draws.h"

/* [batch, places, channels] -> [batch, channels, places] */
static float *channels_first(const float *from, int64_t batch, int64_t places, int64_t channels)
{
    float *to = memory_alloc(batch * places * channels, sizeof *to);
    for (int64_t b = 0; b < batch && to; b++)
        for (int64_t p = 0; p < places; p++)
            for (int64_t c = 0; c < channels; c++)
                to[(b * channels + c) * places + p] = from[(b * places + p) * channels + c];
    return to;
}

/* count normals of a stream, as the device draws them. */
static float *normals(const struct draws *d, int64_t step, uint32_t stream, int64_t count)
{
    float *all = memory_alloc(count, sizeof *all);
    if (all)
        rng_normals(d->shape.seed, (uint64_t)step, stream, 0, count, all);
    return all;
}

/* [rows, count], each from its stream. */
static float *direction_draws(const struct draws *d, int64_t step, int64_t count)
{
    float *all = memory_alloc(d->shape.directions * count, sizeof *all);
    for (int64_t i = 0; i < d->shape.directions && all; i++)
        rng_normals(d->shape.seed, (uint64_t)step, STREAM_DIRECTION + (uint32_t)(i + 1), 0, count, all + i * count);
    return all;
}

/* Mixes the step's directions from the basis in its checkpoint, as op_mix does. */
static struct error mix(const struct draws *d, const struct config *c, int64_t step, float *z)
{
    char path[PATH_SIZE], name[64];
    struct safetensors file;
    snprintf(name, sizeof name, "checkpoints/step-%lld.safetensors", (long long)step);
    TRY(path_join(path, c->output.dir, name));
    TRY(safetensors_open(&file, path));
    const struct entry *basis = safetensors_find(&file, "basis");
    int64_t rank = basis ? basis->shape[0] : 0, width = basis ? basis->shape[1] : 1;
    int64_t weights = d->shape.dim / width * rank, places = d->shape.directions * (d->shape.dim / width);
    float *w = direction_draws(d, step, weights);
    bool all = c->zo.directions == DIRECTIONS_TEXT && rank == c->zo.n;
    for (int64_t p = 0; w && p < places; p++)
        for (int64_t k = 0; k < width; k++) {
            double sum = 0;
            for (int64_t r = 0; r < rank; r++)
                sum += (all ? r == p % rank : (double)w[p * rank + r]) *
                       (double)((const float *)basis->data)[r * width + k];
            z[p * width + k] = (float)sum;
        }
    memory_free(w);
    safetensors_close(&file);
    return basis && w ? ok() : error_input("%s: expected a basis", path);
}

static struct error write_draws(const struct draws *d, const struct subject *s, int64_t width, int64_t step,
                                const char *path)
{
    const struct draw_shape *h = &d->shape;
    int64_t batch = h->batch, places = h->height * h->width, length = s->dataset.length;
    int64_t numbers = batch * places * h->channels;
    float *plain_posterior = normals(d, step, STREAM_POSTERIOR, numbers);
    float *plain_noise = normals(d, step, STREAM_NOISE, numbers), *z = direction_draws(d, step, h->dim);
    float *posterior = plain_posterior ? channels_first(plain_posterior, batch, places, h->channels) : NULL;
    float *noise = plain_noise ? channels_first(plain_noise, batch, places, h->channels) : NULL;
    int32_t *ids = memory_alloc(batch * length, sizeof *ids);
    struct error e = posterior && noise && z && ids ? ok() : error_memory("the draws");
    if (e.code == ERROR_NONE && s->config.zo.directions != DIRECTIONS_NORMAL)
        e = mix(d, &s->config, step, z);
    if (e.code == ERROR_NONE) {
        for (int64_t b = 0; b < batch; b++)
            memcpy(ids + b * length, s->dataset.ids + d->caption[b] * length, (size_t)length * sizeof *ids);
        const struct entry out[] = {
            {"picture", I32, 1, {batch}, batch, d->picture},
            {"flip", I32, 1, {batch}, batch, d->flip},
            {"timestep", I32, 1, {batch}, batch, d->timestep},
            {"input_ids", I32, 2, {batch, length}, batch * length, ids},
            {"posterior", F32, 4, {batch, h->channels, h->height, h->width}, numbers, posterior},
            {"noise", F32, 4, {batch, h->channels, h->height, h->width}, numbers, noise},
            {"directions", F32, 3, {h->directions, h->dim / width, width}, h->directions * h->dim, z},
        };
        e = safetensors_write(path, out, sizeof out / sizeof *out, NULL, 0);
    }
    memory_free(plain_posterior);
    memory_free(plain_noise);
    memory_free(z);
    memory_free(posterior);
    memory_free(noise);
    memory_free(ids);
    return e;
}

static struct error work(int argc, char **argv, struct comm *comm)
{
    bool pairs = argc >= 4 && argc % 2 == 0;
    for (int i = 2; i < argc && pairs; i += 2)
        pairs = atoll(argv[i]) >= 1;
    if (!pairs)
        return error_input("usage: draws CONFIG.json STEP OUT.safetensors [STEP OUT.safetensors]..., STEP from 1");
    struct subject s;
    struct pipeline w;
    TRY(subject_open(&s, &w, argv[1], &(struct text_list){0}, comm, device_kinds(), START_NEW));
    struct text_config text;
    struct error e = text_config_read(&text, s.config.model);
    if (e.code == ERROR_NONE) {
        int64_t side = s.resolution / w.vae.factor;
        const struct draw_shape shape =
            draw_shape_of(&s.config, s.dataset.trained, s.dataset.caption_per_picture ? 0 : s.dataset.captions.count,
                          side, side, w.vae.latent_channels, s.config.token.vectors * text.width);
        struct draws d;
        e = draws_new(&d, &shape);
        if (e.code == ERROR_NONE) {
            for (int i = 2; i < argc && e.code == ERROR_NONE; i += 2) {
                draws_make(&d, atoll(argv[i]));
                e = write_draws(&d, &s, text.width, atoll(argv[i]), argv[i + 1]);
            }
            draws_free(&d);
        }
    }
    subject_close(&s);
    return e;
}

int main(int argc, char **argv)
{
    return helper_on_ranks("draws", argc, argv, work);
}
