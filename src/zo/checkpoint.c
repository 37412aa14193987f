#include "zo/checkpoint.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "base/memory.h"
#include "files/file.h"
#include "files/safetensors.h"
#include "files/safetensors_write.h"

static const char FORMAT[] = "zoodip checkpoint 1";

enum { FACTS = 4, NUMBER_TEXT = 24 };

/* -------------------------------------------------------------------------------- what a file holds */

/* The checksum of everything meaningful in the file except the sum itself. facts: values in the order of fact_names. */
static uint32_t checksum(const struct entry *tensors, const char *const facts[FACTS])
{
    uint32_t sum = 0;
    for (int i = 0; i < FACTS; i++)
        sum = (uint32_t)crc32_z(sum, (const void *)facts[i], strlen(facts[i]) + 1);
    return state_crc(sum, tensors);
}

static const char *const fact_names[FACTS] = {"format", "step", "updates", "recipe"};

/* -------------------------------------------------------------------------------- files of a folder */

/* The N of "step-N.safetensors", or -1 for any other name: half-written files have other names. */
static int64_t step_of(const char *name)
{
    long long step;
    char exact[64];
    if (sscanf(name, "step-%18lld.safetensors", &step) != 1 || step < 0)
        return -1;
    snprintf(exact, sizeof exact, "step-%lld.safetensors", step);
    return strcmp(name, exact) == 0 ? step : -1;
}

static int newest_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* The steps that a folder has checkpoints of, newest first. Free with memory_free. */
static struct error list_steps(const char *folder, int64_t **steps, int64_t *count)
{
    char **names;
    int64_t name_count;
    *count = 0;
    TRY(folder_list(folder, &names, &name_count));
    *steps = memory_alloc(name_count, sizeof **steps);
    for (int64_t i = 0; i < name_count && *steps; i++)
        if (step_of(names[i]) >= 0)
            (*steps)[(*count)++] = step_of(names[i]);
    folder_list_free(names, name_count);
    if (!*steps)
        return error_memory(folder);
    qsort(*steps, (size_t)*count, sizeof **steps, newest_first);
    return ok();
}

static struct error step_path(char path[PATH_SIZE], const char *folder, int64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "step-%lld.safetensors", (long long)step);
    return path_join(path, folder, name);
}

/* -------------------------------------------------------------------------------- writing */

static struct error remove_old(const char *folder, int64_t step, int64_t keep)
{
    int64_t *steps, count, kept = 0;
    TRY(list_steps(folder, &steps, &count));
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++) {
        char path[PATH_SIZE];
        bool abandoned = steps[i] > step;
        if (!abandoned && (keep == 0 || kept++ < keep))
            continue;
        e = step_path(path, folder, steps[i]);
        if (e.code == ERROR_NONE && unlink(path) != 0 && errno != ENOENT &&
            errno != EISDIR) // a folder is not one of ours
            e = error_errno("remove", path);
    }
    memory_free(steps);
    return e;
}

struct error checkpoint_write(const struct state *s, const char *folder, const char *recipe, int64_t keep)
{
    char path[PATH_SIZE], step[NUMBER_TEXT], sum[NUMBER_TEXT];
    TRY(folder_make(folder));
    TRY(step_path(path, folder, s->step));
    snprintf(step, sizeof step, "%lld", (long long)s->step);
    struct entry tensors[STATE_TENSORS];
    state_tensors(s, tensors);
    const char *const facts[FACTS] = {FORMAT, step, step, recipe};
    snprintf(sum, sizeof sum, "%08x", checksum(tensors, facts));
    const char *metadata[2 * (FACTS + 1)];
    for (int i = 0; i < FACTS; i++) {
        metadata[2 * i] = fact_names[i];
        metadata[2 * i + 1] = facts[i];
    }
    metadata[2 * FACTS] = "crc32";
    metadata[2 * FACTS + 1] = sum;
    TRY(safetensors_write(path, tensors, STATE_TENSORS, metadata, FACTS + 1));
    return remove_old(folder, s->step, keep);
}

/* -------------------------------------------------------------------------------- reading */

struct reading {
    struct safetensors file;
    struct entry tensors[STATE_TENSORS];
    const char *facts[FACTS];
};

/* Is the file as it was written? ERROR_FAILED if not. */
static struct error check_whole(struct reading *r, const char *path)
{
    struct state empty = {0};
    state_tensors(&empty, r->tensors); // for the names
    for (int i = 0; i < FACTS; i++) {
        r->facts[i] = safetensors_metadata(&r->file, fact_names[i]);
        if (!r->facts[i])
            return error_failed("%s: not a checkpoint: its metadata has no \"%s\"", path, fact_names[i]);
    }
    if (strcmp(r->facts[0], FORMAT) != 0)
        return error_failed("%s: format: \"%.40s\", expected \"%s\"", path, r->facts[0], FORMAT);
    for (int i = 0; i < STATE_TENSORS; i++) {
        const struct entry *found = safetensors_find(&r->file, r->tensors[i].name);
        if (!found || found->type != F32 || found->dimensions != 2)
            return error_failed("%s: not a checkpoint: expected a tensor \"%s\", F32 with two dimensions", path,
                                r->tensors[i].name);
        r->tensors[i] = *found;
    }
    const char *written = safetensors_metadata(&r->file, "crc32");
    char sum[NUMBER_TEXT];
    snprintf(sum, sizeof sum, "%08x", checksum(r->tensors, r->facts));
    if (!written || strcmp(written, sum) != 0)
        return error_failed("%s: damaged: the CRC-32 of its contents is %s, expected %.8s", path, sum,
                            written ? written : "nothing");
    return ok();
}

struct difference {
    char key[120], theirs[100], ours[100]; /* values as JSON, cut at their field's size */
};

/* Are the values of a key different? `ours` is NULL where the key is missing. */
static bool values_differ(struct difference *d, const char *key, const cJSON *theirs, const cJSON *ours)
{
    char *a = cJSON_PrintUnformatted(theirs), *b = ours ? cJSON_PrintUnformatted(ours) : NULL;
    bool differ = !a || !b || strcmp(a, b) != 0;
    snprintf(d->key, sizeof d->key, "%s", key);
    snprintf(d->theirs, sizeof d->theirs, "%s", a ? a : "unknown");
    snprintf(d->ours, sizeof d->ours, "%s", b ? b : "not given");
    cJSON_free(a);
    cJSON_free(b);
    return differ;
}

/* The first key of `theirs` that has another value in `ours`; the name of a nested one begins with its group's. */
static bool find_difference(struct difference *d, const char *group, const cJSON *theirs, const cJSON *ours)
{
    for (const cJSON *item = theirs->child; item; item = item->next) {
        const cJSON *other = cJSON_GetObjectItemCaseSensitive(ours, item->string);
        char key[sizeof d->key];
        snprintf(key, sizeof key, "%s%s%s", group, *group ? "." : "", item->string);
        bool nested = cJSON_IsObject(item) && cJSON_IsObject(other);
        if (nested ? find_difference(d, key, item, other) : values_differ(d, key, item, other))
            return true;
    }
    return false;
}

static struct error another_recipe(const char *path, const char *theirs, const char *ours)
{
    struct difference d;
    cJSON *a = cJSON_Parse(theirs), *b = cJSON_Parse(ours);
    bool found = cJSON_IsObject(a) && cJSON_IsObject(b) && find_difference(&d, "", a, b);
    cJSON_Delete(a);
    cJSON_Delete(b);
    if (!found)
        return error_input("%s: made with another recipe; expected the same recipe, or another output.dir", path);
    return error_input("%s: made with another recipe: %s is %s there and %s here; expected the same recipe, or another "
                       "output.dir",
                       path, d.key, d.theirs, d.ours);
}

/* Is it this run's? ERROR_BAD_INPUT if not. */
static struct error check_ours(const struct reading *r, const struct state *s, const char *path, const char *recipe)
{
    if (strcmp(r->facts[3], recipe) != 0)
        return another_recipe(path, r->facts[3], recipe);
    const int64_t most[STATE_TENSORS] = {1, 1, 1, s->subspace.tau - 1, s->subspace.tau - 1};
    for (int i = 0; i < STATE_TENSORS; i++) {
        const struct entry *t = &r->tensors[i];
        if (t->shape[1] != s->dim || t->shape[0] > most[i] || (i < 3 && t->shape[0] != 1))
            return error_input("%s: %s: shape [%lld, %lld] does not fit this run's embedding of %lld and tau of %lld",
                               path, t->name, (long long)t->shape[0], (long long)t->shape[1], (long long)s->dim,
                               (long long)s->subspace.tau);
    }
    return ok();
}

static void copy_rows(float *to, const struct entry *from)
{
    if (from->count > 0)
        memcpy(to, from->data, (size_t)from->count * sizeof *to);
}

static void copy_state(struct state *s, const struct reading *r)
{
    s->step = strtoll(r->facts[1], NULL, 10);
    copy_rows(s->embedding, &r->tensors[0]);
    copy_rows(s->m, &r->tensors[1]);
    copy_rows(s->v, &r->tensors[2]);
    copy_rows(s->subspace.history, &r->tensors[3]);
    copy_rows(s->subspace.removed, &r->tensors[4]);
    s->subspace.filled = r->tensors[3].shape[0];
    s->subspace.removed_rows = r->tensors[4].shape[0];
}

/* ERROR_FAILED: damaged, so try an older one; ERROR_BAD_INPUT: intact, but not for this run. *unread: it may be intact,
 * but the system could not read it. */
static struct error read_checkpoint(struct state *s, const char *path, const char *recipe, bool *unread)
{
    struct reading r;
    struct error e = safetensors_open(&r.file, path);
    *unread = e.code == ERROR_FAILED;
    if (e.code != ERROR_NONE) {
        e.code = ERROR_FAILED;
        return e;
    }
    e = check_whole(&r, path);
    if (e.code == ERROR_NONE)
        e = check_ours(&r, s, path, recipe);
    if (e.code == ERROR_NONE)
        copy_state(s, &r);
    safetensors_close(&r.file);
    return e;
}

struct error checkpoint_read(struct state *s, const char *path, const char *recipe)
{
    bool unread;
    struct error e = read_checkpoint(s, path, recipe, &unread);
    if (e.code != ERROR_NONE)
        e.code = ERROR_BAD_INPUT;
    return e;
}

/* What a search for a checkpoint knows. */
struct search {
    const char *folder, *recipe;
    void (*warn)(const char *text);
    bool found;
    struct error unread; /* of the first that the system could not read */
};

/* Tries the checkpoints of some steps, until one is read. */
static struct error read_first(struct state *s, struct search *search, const int64_t *steps, int64_t count)
{
    for (int64_t i = 0; i < count && !search->found; i++) {
        char path[PATH_SIZE];
        bool unread;
        TRY(step_path(path, search->folder, steps[i]));
        struct error e = read_checkpoint(s, path, search->recipe, &unread);
        if (e.code == ERROR_BAD_INPUT)
            return e;
        search->found = e.code == ERROR_NONE;
        if (!search->found)
            search->warn(e.text);
        if (unread)
            search->unread = error_first(search->unread, e);
    }
    return ok();
}

/* The newest ones are passed over: without the lines of all steps up to them, those would be missing for good. */
static void warn_of_later(const struct search *search, int64_t newest, int64_t taken)
{
    char text[PATH_SIZE + 200];
    snprintf(text, sizeof text,
             "%s: the metrics lack lines of steps up to %lld: continuing from step %lld's checkpoint", search->folder,
             (long long)newest, (long long)taken);
    search->warn(text);
}

struct error checkpoint_resume(struct state *s, const char *folder, const char *recipe, int64_t recorded, bool *found,
                               void (*warn)(const char *text))
{
    struct search search = {folder, recipe, warn, .found = false};
    int64_t *steps, count, later = 0;
    *found = false;
    if (!folder_exists(folder))
        return ok();
    TRY(list_steps(folder, &steps, &count));
    while (later < count && steps[later] > recorded)
        later++;
    struct error e = read_first(s, &search, steps + later, count - later);
    if (e.code == ERROR_NONE && search.found && later > 0)
        warn_of_later(&search, steps[0], s->step);
    if (e.code == ERROR_NONE)
        e = read_first(s, &search, steps, later);
    memory_free(steps);
    *found = search.found;
    return e.code == ERROR_NONE && !search.found ? search.unread : e;
}
