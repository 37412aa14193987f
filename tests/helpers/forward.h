/* tests/helpers/forward.h
 *
 * What both ways of the helper `forward` need, networks as they are and with derivatives (derivative.h): the model's
 * weights in plain memory, inputs from a safetensors file, outputs into one. Included by one file of the program.
 */
#ifndef ZOODIP_TESTS_HELPERS_FORWARD_H
#define ZOODIP_TESTS_HELPERS_FORWARD_H

#include <string.h>

#include "base/memory.h"
#include "device/device.h"
#include "files/safetensors.h"
#include "model/weights.h"

enum { OUTPUTS = 6 };

struct job {
    const char *folder;
    int bits;
    struct device *device;
    struct safetensors in;
    struct entry out[OUTPUTS];
    int64_t out_count;
};

/* -------------------------------------------------------------------------------- weights in plain memory */

static inline struct error alloc_plain(void *arg, int64_t bytes, void **memory, bool *fill)
{
    (void)arg;
    *memory = memory_alloc(bytes, 1);
    *fill = true;
    return *memory ? ok() : error_memory("the model's weights");
}

static inline struct error ready_plain(void *arg, struct error e)
{
    (void)arg;
    return e;
}

static inline void free_plain(void *arg, void *memory, int64_t bytes)
{
    (void)arg;
    (void)bytes;
    memory_free(memory);
}

static const struct store plain_store = {alloc_plain, ready_plain, free_plain, NULL};

/* -------------------------------------------------------------------------------- inputs, outputs */

static inline struct error input(const struct job *job, const char *name, int dimensions, const struct entry **entry)
{
    *entry = safetensors_find(&job->in, name);
    if (!*entry)
        return error_input("%s: tensor %s: is missing", job->in.path, name);
    if ((*entry)->dimensions != dimensions || (*entry)->count == 0)
        return error_input("%s: tensor %s: expected %d dimensions", job->in.path, name, dimensions);
    return ok();
}

static inline struct error floats(const struct job *job, const struct entry *entry, float **out)
{
    if (entry->type == I64 || entry->type == I32 || entry->type == U8 || entry->type == BOOL || entry->type == I16)
        return error_input("%s: tensor %s: expected floats", job->in.path, entry->name);
    *out = memory_alloc(entry->count, sizeof **out);
    if (!*out)
        return error_memory(entry->name);
    dtype_to_float(*out, entry->data, entry->type, entry->count);
    return ok();
}

static inline struct error integers(const struct job *job, const struct entry *entry, int32_t **out)
{
    if (entry->type != I32 && entry->type != I64)
        return error_input("%s: tensor %s: expected I32", job->in.path, entry->name);
    *out = memory_alloc(entry->count, sizeof **out);
    if (!*out)
        return error_memory(entry->name);
    for (int64_t i = 0; i < entry->count; i++) {
        int64_t wide;
        if (entry->type == I32) {
            memcpy(*out + i, (const char *)entry->data + 4 * i, 4);
            continue;
        }
        memcpy(&wide, (const char *)entry->data + 8 * i, 8);
        (*out)[i] = (int32_t)wide;
        if (wide != (*out)[i]) {
            memory_free(*out);
            return error_input("%s: tensor %s: %lld is not an I32", job->in.path, entry->name, (long long)wide);
        }
    }
    return ok();
}

/* [lanes, a, b] -> [lanes, b, a] */
static inline void transpose(float *to, const float *from, int64_t lanes, int64_t a, int64_t b)
{
    for (int64_t l = 0; l < lanes; l++)
        for (int64_t i = 0; i < a; i++)
            for (int64_t j = 0; j < b; j++)
                to[(l * b + j) * a + i] = from[(l * a + i) * b + j];
}

/* An NCHW picture from the file onto the device, NHWC. */
static inline struct error keep_picture(struct job *job, const struct entry *entry, struct tensor *t)
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
static inline struct error give(struct job *job, const char *name, struct tensor t, int64_t first, int64_t count,
                                bool tokens)
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

/* -------------------------------------------------------------------------------- running */

/* Runs a program once. */
static inline struct error run_once(struct device *device, struct error (*body)(void *), void *arg)
{
    struct program *program;
    TRY(program_new(device, body, arg, &program));
    struct error e = program_run(program);
    if (e.code == ERROR_NONE)
        e = device_wait(device);
    program_free(program);
    return e;
}

#endif
