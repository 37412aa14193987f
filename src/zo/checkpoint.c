#include "zo/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "base/memory.h"
#include "files/file.h"
#include "files/safetensors.h"

enum { TENSORS = 5 };

static const char format_name[] = "zoodip checkpoint 1";

struct error state_new(struct state *s, int64_t dim, int64_t tau, double nu, double beta1, double beta2, double eps)
{
    *s = (struct state){.dim = dim};
    s->embedding = memory_take(dim, sizeof *s->embedding);
    struct error e = s->embedding ? optimizer_new(&s->optimizer, dim, beta1, beta2, eps) : error_memory("the embedding");
    if (e.code == ERROR_NONE)
        e = subspace_new(&s->subspace, dim, tau, nu);
    if (e.code != ERROR_NONE)
        state_free(s);
    return e;
}

void state_free(struct state *s)
{
    memory_free(s->embedding);
    optimizer_free(&s->optimizer);
    subspace_free(&s->subspace);
    *s = (struct state){0};
}

/* The state as tensors. */
static void list_tensors(const struct state *s, struct entry out[TENSORS])
{
    const struct subspace *sub = &s->subspace;
    const struct {
        const char *name;
        const float *data;
        int64_t rows;
    } parts[TENSORS] = {
        {"embedding", s->embedding, 1},      {"adam_m", s->optimizer.m, 1},       {"adam_v", s->optimizer.v, 1},
        {"history", sub->history, sub->tau}, {"noise_directions", sub->noise, sub->tau},
    };
    for (int i = 0; i < TENSORS; i++)
        out[i] = (struct entry){.name = parts[i].name, .type = F32, .ranks = 2, .shape = {parts[i].rows, s->dim},
                                .count = parts[i].rows * s->dim, .data = parts[i].data};
}

static uint32_t crc_of(uint32_t crc, const void *data, int64_t bytes)
{
    return (uint32_t)crc32_z(crc, data, (size_t)bytes);
}

uint32_t state_hash(const struct state *s)
{
    const struct subspace *sub = &s->subspace;
    int64_t row = s->dim * (int64_t)sizeof(float);
    uint32_t crc = crc_of(0, s->embedding, row);
    crc = crc_of(crc, s->optimizer.m, row);
    crc = crc_of(crc, s->optimizer.v, row);
    crc = crc_of(crc, sub->history, sub->filled * row);
    return crc_of(crc, sub->noise, sub->noise_rows * row);
}

/* What the checksum covers besides the tensors. */
static void describe(const struct state *s, const char *recipe, char *text, size_t room)
{
    snprintf(text, room, "%s step %" PRId64 " updates %" PRId64 " filled %" PRId64 " noise %" PRId64 " recipe %s",
             format_name, s->step, s->optimizer.step, s->subspace.filled, s->subspace.noise_rows, recipe);
}

static struct error checksum(const struct state *s, const char *recipe, uint32_t *crc)
{
    size_t room = strlen(recipe) + 256;
    char *text = memory_take((int64_t)room, 1);
    if (!text)
        return error_memory("a checkpoint");
    describe(s, recipe, text, room);
    *crc = crc_of(0, text, (int64_t)strlen(text));
    memory_free(text);
    struct entry tensors[TENSORS];
    list_tensors(s, tensors);
    for (int i = 0; i < TENSORS; i++)
        *crc = crc_of(*crc, tensors[i].data, tensors[i].count * (int64_t)sizeof(float));
    return ok();
}

/* ---------------------------------------------------------------------------------------------------- folder */

/* N of "step-N.safetensors", or -1. */
static int64_t step_of(const char *name)
{
    char *end;
    if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9')
        return -1;
    long long step = strtoll(name + 5, &end, 10);
    return strcmp(end, ".safetensors") == 0 ? (int64_t)step : -1;
}

static int newest_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The steps of the checkpoints in a folder, newest first; memory_free. No folder: none. */
static struct error list_steps(const char *folder, int64_t **steps, int64_t *count)
{
    *steps = NULL;
    *count = 0;
    if (!folder_exists(folder))
        return ok();
    char **names;
    int64_t all;
    TRY(folder_list(folder, &names, &all));
    *steps = memory_take(all, sizeof **steps);
    for (int64_t i = 0; i < all && *steps; i++)
        if (step_of(names[i]) >= 0)
            (*steps)[(*count)++] = step_of(names[i]);
    folder_list_free(names, all);
    if (!*steps)
        return error_memory("the list of checkpoints");
    qsort(*steps, (size_t)*count, sizeof **steps, newest_first);
    return ok();
}

static struct error step_path(char path[4096], const char *folder, int64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "step-%" PRId64 ".safetensors", step);
    return path_join(path, folder, name);
}

static struct error remove_old(const char *folder, int64_t keep)
{
    int64_t *steps, count;
    TRY(list_steps(folder, &steps, &count));
    struct error e = ok();
    for (int64_t i = keep; i < count && e.code == ERROR_NONE; i++) {
        char path[4096];
        e = step_path(path, folder, steps[i]);
        if (e.code == ERROR_NONE && unlink(path) != 0)
            e = error_errno("remove", path);
    }
    memory_free(steps);
    return e;
}

/* ---------------------------------------------------------------------------------------------------- writing */

struct error checkpoint_write(const struct state *s, const char *folder, const char *recipe, int64_t keep)
{
    char path[4096], step[32], updates[32], filled[32], noise[32], crc_text[32];
    uint32_t crc;
    TRY(folder_make(folder));
    TRY(step_path(path, folder, s->step));
    TRY(checksum(s, recipe, &crc));
    snprintf(step, sizeof step, "%" PRId64, s->step);
    snprintf(updates, sizeof updates, "%" PRId64, s->optimizer.step);
    snprintf(filled, sizeof filled, "%" PRId64, s->subspace.filled);
    snprintf(noise, sizeof noise, "%" PRId64, s->subspace.noise_rows);
    snprintf(crc_text, sizeof crc_text, "%08" PRIx32, crc);
    const char *const metadata[] = {"format", format_name, "step",   step,  "updates", updates, "filled",
                                    filled,   "noise",     noise,    "recipe", recipe,  "crc32", crc_text};
    struct entry tensors[TENSORS];
    list_tensors(s, tensors);
    TRY(safetensors_write(path, tensors, TENSORS, metadata, sizeof metadata / sizeof *metadata / 2));
    return keep > 0 ? remove_old(folder, keep) : ok();
}

/* ---------------------------------------------------------------------------------------------------- reading */

static bool number_of(const struct safetensors *file, const char *key, int64_t low, int64_t high, int64_t *value)
{
    const char *text = safetensors_metadata(file, key);
    char *end;
    if (!text || *text < '0' || *text > '9')
        return false;
    *value = strtoll(text, &end, 10);
    return *end == 0 && *value >= low && *value <= high;
}

/* Tensors and counters of an open file into `to`, which has the run's shapes. */
static struct error take_over(const struct safetensors *file, struct state *to)
{
    struct entry tensors[TENSORS];
    list_tensors(to, tensors);
    for (int i = 0; i < TENSORS; i++) {
        const struct entry *from = safetensors_find(file, tensors[i].name);
        if (!from || from->type != F32 || from->ranks != 2 || from->count != tensors[i].count ||
            from->shape[0] != tensors[i].shape[0])
            return error_failed("%s: tensor %s: expected F32 [%lld, %lld]", file->path, tensors[i].name,
                                (long long)tensors[i].shape[0], (long long)tensors[i].shape[1]);
        memcpy((void *)tensors[i].data, from->data, (size_t)from->count * sizeof(float));
    }
    struct subspace *sub = &to->subspace;
    if (!number_of(file, "step", 0, INT64_MAX, &to->step) ||
        !number_of(file, "updates", 0, INT64_MAX, &to->optimizer.step) ||
        !number_of(file, "filled", 0, sub->tau - 1, &sub->filled) ||
        !number_of(file, "noise", 0, sub->tau, &sub->noise_rows))
        return error_failed("%s: a counter is missing or out of range", file->path);
    return ok();
}

static struct error check_file(const struct safetensors *file, const char *recipe, struct state *read)
{
    const char *format = safetensors_metadata(file, "format"), *made_by = safetensors_metadata(file, "recipe");
    const char *crc_text = safetensors_metadata(file, "crc32");
    if (!format || strcmp(format, format_name) != 0 || !made_by || !crc_text)
        return error_failed("%s: is not a checkpoint of this program", file->path);
    // a recipe may only be judged when the checksum says that it is what was written
    bool same = strcmp(made_by, recipe) == 0;
    struct error e = take_over(file, read);
    uint32_t crc;
    if (e.code == ERROR_NONE) {
        TRY(checksum(read, made_by, &crc));
        if (strtoull(crc_text, NULL, 16) != crc || strlen(crc_text) != 8)
            return error_failed("%s: checksum does not match: the file is damaged", file->path);
    }
    if (!same)
        return error_input("%s: belongs to another recipe; choose another output.dir, or start anew without --resume",
                           file->path);
    return e;
}

struct error checkpoint_read(struct state *s, const char *path, const char *recipe)
{
    struct safetensors file;
    struct error e = safetensors_open(&file, path);
    if (e.code != ERROR_NONE) {
        e.code = ERROR_FAILED;
        return e;
    }
    const struct optimizer *o = &s->optimizer;
    struct state read;
    e = state_new(&read, s->dim, s->subspace.tau, s->subspace.nu, o->beta1, o->beta2, o->eps);
    if (e.code == ERROR_NONE) {
        e = check_file(&file, recipe, &read);
        struct state discarded = read;
        if (e.code == ERROR_NONE) {
            discarded = *s;
            *s = read;
        }
        state_free(&discarded);
    }
    safetensors_close(&file);
    return e;
}

struct error checkpoint_resume(struct state *s, const char *folder, const char *recipe, bool *found,
                               void (*warn)(const char *text))
{
    *found = false;
    int64_t *steps, count;
    TRY(list_steps(folder, &steps, &count));
    struct error e = ok();
    for (int64_t i = 0; i < count && !*found && e.code == ERROR_NONE; i++) {
        char path[4096], text[600];
        e = step_path(path, folder, steps[i]);
        if (e.code != ERROR_NONE)
            break;
        struct error skipped = checkpoint_read(s, path, recipe);
        *found = skipped.code == ERROR_NONE;
        if (skipped.code == ERROR_BAD_INPUT) {
            e = skipped;
        } else if (!*found) {
            snprintf(text, sizeof text, "%s; trying the one before", skipped.text);
            warn(text);
        }
    }
    memory_free(steps);
    return e;
}
