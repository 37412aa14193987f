/* tests/helpers/derivative.h
 *
 * forward --derivative: losses and slopes of a word, and where they come from, so that anyone can compare them with
 * PyTorch's forward mode. Each of B rows is a picture with one direction; a program of 2 B lanes evaluates them all:
 * lane b at the word, lane B + b its tangent, or, by differences, the word moved by eps along the direction. Included
 * by one file of the program.
 */
#ifndef ZOODIP_TESTS_HELPERS_DERIVATIVE_H
#define ZOODIP_TESTS_HELPERS_DERIVATIVE_H

#include <stdio.h>

#include "device/step_core.h"
#include "forward.h"
#include "model/text_encoder.h"
#include "model/unet.h"

struct derivative {
    bool tangents; /* or differences */
    double eps;    /* of differences */
    struct device *device;
    struct text_encoder text;
    struct unet unet;
    int64_t rows_count; /* B */
    const struct entry *ids_entry, *embedding_entry, *directions_entry;
    const struct entry *sample_entry, *timestep_entry, *target_entry;
    struct unet_input in; /* hidden is the program's own */
    struct tensor ids, rows, target;
    struct tensor hidden, predicted, losses; /* what comes out, 2 B lanes */
};

/* -------------------------------------------------------------------------------- inputs */

/* "[2, 77]", with a letter or word where a size may be any. */
struct sizes_text {
    char text[96];
};

static inline struct sizes_text sizes(int count, const int64_t *shape)
{
    struct sizes_text s = {"["};
    for (int i = 0; i < count; i++) {
        size_t at = strlen(s.text);
        snprintf(s.text + at, sizeof s.text - at, "%lld%s", (long long)shape[i], i + 1 < count ? ", " : "]");
    }
    return s;
}

/* An input of exactly that shape. */
static inline struct error shaped(const struct job *job, const char *name, int dimensions, const int64_t *shape,
                                  const struct entry **entry)
{
    TRY(input(job, name, dimensions, entry));
    if (memcmp((*entry)->shape, shape, (size_t)dimensions * sizeof *shape) != 0)
        return error_input("%s: tensor %s: is %s, expected %s", job->in.path, name,
                           sizes(dimensions, (*entry)->shape).text, sizes(dimensions, shape).text);
    return ok();
}

static inline struct error find_inputs(const struct job *job, struct derivative *r)
{
    TRY(input(job, "input_ids", 2, &r->ids_entry));
    TRY(input(job, "sample", 4, &r->sample_entry));
    TRY(input(job, "embedding", 3, &r->embedding_entry));
    const int64_t b = r->ids_entry->shape[0], *word = r->embedding_entry->shape, *sample = r->sample_entry->shape;
    const int64_t width = r->text.config.width, in = r->unet.config.in_channels, out = r->unet.config.out_channels;
    r->rows_count = b;
    if (r->ids_entry->shape[1] > r->text.config.positions)
        return error_input("%s: tensor input_ids: longer than the model's %lld positions", job->in.path,
                           (long long)r->text.config.positions);
    TRY(shaped(job, "sample", 4, (int64_t[]){b, in, sample[2], sample[3]}, &r->sample_entry));
    TRY(shaped(job, "timestep", 1, &b, &r->timestep_entry));
    TRY(shaped(job, "embedding", 3, (int64_t[]){b, word[1], width}, &r->embedding_entry));
    TRY(shaped(job, "directions", 3, word, &r->directions_entry));
    return shaped(job, "target", 4, (int64_t[]){b, out, sample[2], sample[3]}, &r->target_entry);
}

/* Both lanes of a row have its ids. Those from the table's rows on are the word's vectors. */
static inline struct error put_ids(const struct job *job, struct derivative *r)
{
    int64_t count = r->ids_entry->count, vocab = r->text.config.vocab, known = vocab + r->embedding_entry->shape[1];
    int32_t *ids;
    TRY(integers(job, r->ids_entry, &ids));
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++)
        if (ids[i] < 0 || ids[i] >= known)
            e = error_input(
                "%s: tensor input_ids: id %d is neither a token, below %lld, nor one of the word's, below %lld",
                job->in.path, ids[i], (long long)vocab, (long long)known);
    if (e.code == ERROR_NONE)
        e = text_encoder_add_ids(r->device, &r->text, ids, count);
    if (e.code == ERROR_NONE) {
        device_write(r->device, tensor_lanes(r->ids, 0, r->rows_count), ids);
        device_write(r->device, tensor_lanes(r->ids, r->rows_count, r->rows_count), ids);
        e = device_wait(r->device);
    }
    memory_free(ids);
    return e;
}

static inline struct error put_rows(const struct job *job, struct derivative *r)
{
    int64_t count = r->embedding_entry->count;
    float *word = NULL, *z = NULL;
    struct error e = floats(job, r->embedding_entry, &word);
    if (e.code == ERROR_NONE)
        e = floats(job, r->directions_entry, &z);
    if (e.code == ERROR_NONE) {
        for (int64_t i = 0; i < count && !r->tangents; i++)
            z[i] = step_perturb(word[i], r->eps, z[i]);
        device_write(r->device, tensor_lanes(r->rows, 0, r->rows_count), word);
        device_write(r->device, tensor_lanes(r->rows, r->rows_count, r->rows_count), z);
        e = device_wait(r->device);
    }
    memory_free(word);
    memory_free(z);
    return e;
}

/* Timesteps, and lane by lane its picture. */
static inline struct error put_pictures(const struct job *job, struct derivative *r)
{
    int64_t b = r->rows_count;
    int32_t *steps = NULL, *map = memory_alloc(2 * b, sizeof *map);
    float *times = memory_alloc(b, sizeof *times);
    struct error e = map && times ? integers(job, r->timestep_entry, &steps) : error_memory("inputs");
    if (e.code == ERROR_NONE) {
        for (int64_t i = 0; i < b; i++) {
            map[i] = map[b + i] = (int32_t)i;
            times[i] = (float)steps[i];
        }
        device_write(r->device, r->in.map, map);
        device_write(r->device, r->in.timestep, times);
        e = device_wait(r->device);
    }
    memory_free(steps);
    memory_free(map);
    memory_free(times);
    return e;
}

static inline struct error keep_tensors(struct job *job, struct derivative *r)
{
    struct device *d = r->device;
    int64_t b = r->rows_count, length = r->ids_entry->shape[1], vectors = r->embedding_entry->shape[1];
    int64_t width = r->text.config.width;
    const int64_t *target = r->target_entry->shape;
    TRY(device_alloc_state(d, I32, 2 * b, 1, length, 1, &r->ids));
    TRY(device_alloc_state(d, F32, 2 * b, 1, vectors, width, &r->rows));
    TRY(device_alloc_state(d, F32, b, 1, 1, 1, &r->in.timestep));
    TRY(device_alloc_state(d, I32, 1, 1, 1, 2 * b, &r->in.map));
    TRY(device_alloc_state(d, F32, 2 * b, 1, length, width, &r->hidden));
    TRY(device_alloc_state(d, F32, 2 * b, target[2], target[3], target[1], &r->predicted));
    TRY(device_alloc_state(d, F64, 2 * b, 1, 1, 1, &r->losses));
    TRY(keep_picture(job, r->sample_entry, &r->in.sample));
    TRY(keep_picture(job, r->target_entry, &r->target));
    TRY(put_ids(job, r));
    TRY(put_rows(job, r));
    return put_pictures(job, r);
}

/* -------------------------------------------------------------------------------- running */

/* As evaluator_forward (zo/evaluator.c) does it, which keeps nothing but the losses. */
static inline struct error derivative_body(void *arg)
{
    struct derivative *r = arg;
    struct device *d = r->device;
    struct unet_input in = r->in;
    const struct tangents tangents = {.primal = r->rows_count, .of = in.map, .scale = r->text.tangent_scale};
    if (r->tangents)
        tangents_begin(d, &tangents);
    in.hidden = text_encoder_forward(d, &r->text, r->ids, r->rows, (int32_t)r->text.config.vocab);
    op_copy(d, r->hidden, in.hidden, (struct tensor){0});
    struct tensor predicted = unet_forward(d, &r->unet, &in);
    op_copy(d, r->predicted, predicted, (struct tensor){0});
    op_loss(d, r->losses, predicted, r->target, in.map, (struct tensor){0});
    device_free(d, &predicted);
    device_free(d, &in.hidden);
    tangents_end(d);
    return ok();
}

/* -------------------------------------------------------------------------------- outputs */

/* A tensor's first half of lanes as `name`, and their derivatives as `tangent`. */
static inline struct error give_both(struct job *job, const struct derivative *r, struct tensor t, const char *name,
                                     const char *tangent, bool tokens)
{
    TRY(give(job, name, tensor_lanes(t, 0, r->rows_count), 0, t.channels, tokens));
    TRY(give(job, tangent, tensor_lanes(t, r->rows_count, r->rows_count), 0, t.channels, tokens));
    const struct entry *last = &job->out[job->out_count - 1];
    const float *at = last[-1].data;
    float *moved = (float *)last->data; // its own memory
    for (int64_t i = 0; i < last->count; i++)
        moved[i] = (float)(r->tangents ? moved[i] / r->text.tangent_scale : ((double)moved[i] - at[i]) / r->eps);
    return ok();
}

static inline struct error give_losses(struct job *job, const struct derivative *r)
{
    int64_t b = r->rows_count;
    double *all = memory_alloc(2 * b, sizeof *all), *loss = memory_alloc(b, sizeof *loss);
    double *slope = memory_alloc(b, sizeof *slope);
    struct error e = all && loss && slope ? ok() : error_memory("losses");
    if (e.code == ERROR_NONE) {
        device_read(r->device, all, r->losses);
        e = device_wait(r->device);
    }
    if (e.code == ERROR_NONE) {
        for (int64_t i = 0; i < b; i++) {
            loss[i] = all[i];
            slope[i] = r->tangents ? all[b + i] : (all[b + i] - all[i]) / r->eps;
        }
        job->out[job->out_count++] = (struct entry){"loss", F64, 1, {b}, b, loss};
        job->out[job->out_count++] = (struct entry){"slope", F64, 1, {b}, b, slope};
        loss = slope = NULL;
    }
    memory_free(all);
    memory_free(loss);
    memory_free(slope);
    return e;
}

static inline struct error give_all(struct job *job, const struct derivative *r)
{
    TRY(give_both(job, r, r->hidden, "hidden", "hidden_tangent", true));
    TRY(give_both(job, r, r->predicted, "noise_pred", "noise_pred_tangent", false));
    return give_losses(job, r);
}

/* -------------------------------------------------------------------------------- all of it */

/* Outliers are found in floats, as a run does before its first step in codes. */
static inline struct error run_after_finding(struct device *device, struct program *program)
{
    device_use_codes(device, 0);
    device_find_outliers(device, true);
    TRY(program_run(program));
    device_find_outliers(device, false);
    device_use_codes(device, CODES_ALL);
    TRY(program_run(program));
    return device_wait(device);
}

static inline struct error derivative_run(struct job *job, struct derivative *r)
{
    struct program *program;
    TRY(find_inputs(job, r));
    TRY(keep_tensors(job, r));
    TRY(program_new(r->device, derivative_body, r, &program));
    struct error e = run_after_finding(r->device, program);
    program_free(program);
    TRY(e);
    return give_all(job, r);
}

static inline struct error load_both(const struct job *job, struct derivative *r)
{
    TRY(text_encoder_load(&r->text, job->device, job->folder, job->bits, plain_store));
    TRY(unet_load(&r->unet, job->device, job->folder, job->bits, plain_store));
    if (r->unet.config.cross_dim != r->text.config.width)
        return error_input("%s: unet/config.json: cross_attention_dim: is %lld, the text encoder's width is %lld",
                           job->folder, (long long)r->unet.config.cross_dim, (long long)r->text.config.width);
    return ok();
}

static inline struct error forward_derivative(struct job *job, bool tangents, double eps)
{
    struct derivative r = {.tangents = tangents, .eps = eps, .device = job->device};
    struct error e = load_both(job, &r);
    if (e.code == ERROR_NONE)
        e = derivative_run(job, &r);
    struct tensor *const kept[] = {&r.ids,    &r.rows,      &r.target,      &r.hidden, &r.predicted,
                                   &r.losses, &r.in.sample, &r.in.timestep, &r.in.map};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        device_free_state(job->device, kept[i]);
    unet_free(&r.unet);
    text_encoder_free(&r.text);
    return e;
}

#endif
