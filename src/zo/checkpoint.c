#include "zo/checkpoint.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "base/log.h"
#include "base/memory.h"
#include "files/file.h"
#include "files/safetensors.h"
#include "files/safetensors_write.h"

/* 1 knew a run by its paths. */
enum { FORMAT = 2, NUMBER_TEXT = 24, FORMAT_TEXT = 40 };

/* The metadata besides the checksum: its own facts, those of the origin, and some that may be missing. */
enum {
    FORMAT_FACT,
    STEP_FACT,
    UPDATES_FACT,
    OWN_FACTS,
    LOOKS_FACT = OWN_FACTS + ORIGIN_FACTS,
    ENDING_FACT,
    NOISE_FACT,
    FACTS
};

/* -------------------------------------------------------------------------------- what a file holds */

static const char *fact_name(int i)
{
    static const char *const own[OWN_FACTS] = {"format", "step", "updates"};
    static const char *const later[FACTS - LOOKS_FACT] = {"looks", "ending", "slope_noise"};
    if (i >= LOOKS_FACT)
        return later[i - LOOKS_FACT];
    return i < OWN_FACTS ? own[i] : origin_name((enum origin_fact)(i - OWN_FACTS));
}

static void format_text(char text[FORMAT_TEXT], int format)
{
    snprintf(text, FORMAT_TEXT, "zoodip checkpoint %d", format);
}

/* The checksum of everything meaningful in the file except the sum itself. facts: values in the order of fact_name. */
static uint32_t checksum(const struct entry *tensors, const char *const facts[FACTS])
{
    uint32_t sum = 0;
    for (int i = 0; i < FACTS; i++)
        if (facts[i])
            sum = (uint32_t)crc32_z(sum, (const void *)facts[i], strlen(facts[i]) + 1);
    return state_crc(sum, tensors);
}

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

/* Leaves out those that are empty and need not be there; returns how many are left. */
static int drop_empty(struct entry tensors[STATE_TENSORS])
{
    int kept = STATE_ALWAYS;
    for (int i = STATE_ALWAYS; i < STATE_TENSORS; i++)
        if (tensors[i].count > 0)
            tensors[kept++] = tensors[i];
    return kept;
}

struct error checkpoint_write(const struct state *s, const char *folder, const struct origin *origin, int64_t keep)
{
    char path[PATH_SIZE], format[FORMAT_TEXT], step[NUMBER_TEXT], looks[LOOKED_TEXT], sum[NUMBER_TEXT];
    char ending[ENDING_TEXT], noise[SLOPE_NOISE_TEXT];
    bool ends = s->ending.by != ENDED_BY_STEPS || s->ending.seconds > 0;
    TRY(folder_make(folder));
    TRY(step_path(path, folder, s->step));
    snprintf(step, sizeof step, "%lld", (long long)s->step);
    struct entry tensors[STATE_TENSORS];
    state_tensors(s, tensors);
    format_text(format, FORMAT);
    looked_text(looks, &s->looked);
    ending_text(ending, &s->ending);
    slope_noise_text(noise, &s->noise);
    const char *facts[FACTS] = {format,
                                step,
                                step,
                                [LOOKS_FACT] = s->looked.draws > 0 ? looks : NULL,
                                [ENDING_FACT] = ends ? ending : NULL,
                                [NOISE_FACT] = s->noise.compared > 0 ? noise : NULL};
    memcpy(facts + OWN_FACTS, origin->facts, sizeof origin->facts);
    snprintf(sum, sizeof sum, "%08x", checksum(tensors, facts));
    const char *metadata[2 * (FACTS + 1)];
    int count = 0;
    for (int i = 0; i < FACTS; i++)
        if (facts[i]) {
            metadata[2 * count] = fact_name(i);
            metadata[2 * count++ + 1] = facts[i];
        }
    metadata[2 * count] = "crc32";
    metadata[2 * count + 1] = sum;
    TRY(safetensors_write(path, tensors, drop_empty(tensors), metadata, count + 1));
    return remove_old(folder, s->step, keep);
}

/* -------------------------------------------------------------------------------- reading */

struct reading {
    struct safetensors file;
    struct entry tensors[STATE_TENSORS];
    const char *facts[FACTS];
    struct origin origin; /* some of them */
    struct looked looked; /* all 0 in a file without them */
    struct ending ending; /* likewise */
    struct slope_noise noise;
};

/* ERROR_FAILED if the file is no checkpoint, ERROR_BAD_INPUT if it is one of another format. */
static struct error check_format(const struct reading *r, const char *path)
{
    const char *found = safetensors_metadata(&r->file, "format");
    int format = 0;
    char exact[FORMAT_TEXT];
    if (found && sscanf(found, "zoodip checkpoint %9d", &format) == 1)
        format_text(exact, format);
    if (format < 1 || strcmp(found, exact) != 0)
        return error_failed("%s: not a checkpoint: the format in its metadata is %.40s", path,
                            found ? found : "missing");
    if (format == FORMAT)
        return ok();
    return error_input("%s: a checkpoint of %s format, %d; this zoodip continues from format %d only: finish the run "
                       "with the version that began it, or begin anew with --overwrite",
                       path, format < FORMAT ? "an earlier" : "a later", format, FORMAT);
}

/* A number of steps as we write it, and Adam's updates are as many. */
static bool are_steps(const char *step, const char *updates)
{
    char exact[NUMBER_TEXT];
    long long number = strtoll(step, NULL, 10);
    snprintf(exact, sizeof exact, "%lld", number);
    return number >= 0 && strcmp(step, exact) == 0 && strcmp(updates, exact) == 0;
}

/* Is the file as it was written? ERROR_FAILED if not. */
static struct error check_whole(struct reading *r, const char *path)
{
    struct state empty = {0};
    state_tensors(&empty, r->tensors); // for the names
    TRY(check_format(r, path));
    for (int i = 0; i < FACTS; i++) {
        r->facts[i] = safetensors_metadata(&r->file, fact_name(i));
        if (!r->facts[i] && i < LOOKS_FACT)
            return error_failed("%s: not a checkpoint: its metadata has no \"%s\"", path, fact_name(i));
    }
    if (!are_steps(r->facts[STEP_FACT], r->facts[UPDATES_FACT]))
        return error_failed("%s: not a checkpoint: its step is %.20s and its updates are %.20s, expected one number",
                            path, r->facts[STEP_FACT], r->facts[UPDATES_FACT]);
    memcpy(r->origin.facts, r->facts + OWN_FACTS, sizeof r->origin.facts);
    r->looked = (struct looked){0};
    if (r->facts[LOOKS_FACT] && !looked_parse(&r->looked, r->facts[LOOKS_FACT]))
        return error_failed("%s: not a checkpoint: its looks are %.100s", path, r->facts[LOOKS_FACT]);
    r->ending = (struct ending){0};
    if (r->facts[ENDING_FACT] && !ending_parse(&r->ending, r->facts[ENDING_FACT]))
        return error_failed("%s: not a checkpoint: its ending is %.100s", path, r->facts[ENDING_FACT]);
    r->noise = (struct slope_noise){0};
    if (r->facts[NOISE_FACT] && !slope_noise_parse(&r->noise, r->facts[NOISE_FACT]))
        return error_failed("%s: not a checkpoint: its slope_noise is %.100s", path, r->facts[NOISE_FACT]);
    for (int i = 0; i < STATE_TENSORS; i++) {
        const struct entry *found = safetensors_find(&r->file, r->tensors[i].name);
        if (!found && i >= STATE_ALWAYS)
            continue; // without rows
        bool whole = i < STATE_ALWAYS || (found && found->count > 0);
        if (!found || found->type != F32 || found->dimensions != 2 || !whole)
            return error_failed("%s: not a checkpoint: expected a tensor \"%s\", F32 with two dimensions%s", path,
                                r->tensors[i].name, whole ? "" : ", not empty");
        r->tensors[i] = *found;
    }
    if ((r->looked.best_step > 0) != (r->tensors[STATE_BEST].count > 0))
        return error_failed("%s: not a checkpoint: its best word is of step %lld, but a tensor \"best\" is %s", path,
                            (long long)r->looked.best_step, r->tensors[STATE_BEST].count > 0 ? "there" : "missing");
    for (int i = 0; i < STATE_TENSORS; i++)
        if (r->tensors[i].count > 0 && !dtype_finite(r->tensors[i].data, F32, r->tensors[i].count))
            return error_failed("%s: tensor %s: holds a value that is not a number (or infinite)", path,
                                r->tensors[i].name);
    const char *written = safetensors_metadata(&r->file, "crc32");
    char sum[NUMBER_TEXT];
    snprintf(sum, sizeof sum, "%08x", checksum(r->tensors, r->facts));
    if (!written || strcmp(written, sum) != 0)
        return error_failed("%s: damaged: the CRC-32 of its contents is %s, expected %.8s", path, sum,
                            written ? written : "nothing");
    return ok();
}

/* Pairs of a product and a channel, rising. */
static bool are_outliers(const struct entry *t)
{
    const float *x = t->data, most = 1 << 20;
    bool good = true;
    for (int64_t i = 0; i < t->count; i++)
        good = good && x[i] >= 0 && x[i] < most && x[i] == floorf(x[i]);
    for (int64_t i = 2; i < t->count; i += 2)
        good = good && (x[i] > x[i - 2] || (x[i] == x[i - 2] && x[i + 1] > x[i - 1]));
    return good;
}

/* Does it fit the run's shapes? ERROR_BAD_INPUT if not. */
static struct error check_shapes(const struct reading *r, const struct state *s, const char *path)
{
    enum { MANY = 1 << 20 };
    const int64_t most[STATE_TENSORS] = {1,           1,   1, s->subspace.tau - 1, s->subspace.tau - 1, 1, s->basis.dim,
                                         SLOPES_KEPT, MANY};
    const int64_t least[STATE_TENSORS] = {1, 1, 1, 0, 0, 0, s->coordinates ? 0 : s->basis.dim, 0, 0};
    int64_t moments = s->coordinates ? r->tensors[STATE_BASIS].shape[0] : s->dim;
    const int64_t lengths[STATE_TENSORS] = {s->dim, moments, moments, s->dim, s->dim, s->dim, s->basis.dim, 2, 2};
    for (int i = 0; i < STATE_TENSORS; i++) {
        const struct entry *t = &r->tensors[i];
        if (i >= STATE_ALWAYS && t->count == 0)
            continue;
        if (t->shape[1] != lengths[i] || t->shape[0] > most[i] || t->shape[0] < least[i])
            return error_input("%s: %s: shape [%lld, %lld] does not fit this run's embedding of %lld and tau of %lld",
                               path, t->name, (long long)t->shape[0], (long long)t->shape[1], (long long)s->dim,
                               (long long)s->subspace.tau);
    }
    if (!are_outliers(&r->tensors[STATE_OUTLIERS]))
        return error_input("%s: outliers: expected pairs of a product and a channel, rising", path);
    return ok();
}

static void copy_rows(float *to, const struct entry *from)
{
    if (from->count > 0)
        memcpy(to, from->data, (size_t)from->count * sizeof *to);
}

static struct error copy_state(struct state *s, const struct reading *r)
{
    const struct entry *basis = &r->tensors[STATE_BASIS], *outliers = &r->tensors[STATE_OUTLIERS];
    float *rows = memory_alloc(basis->count, sizeof *rows), *apart = memory_alloc(outliers->count, sizeof *apart);
    if (!rows || !apart) {
        memory_free(rows);
        memory_free(apart);
        return error_memory("the state");
    }
    s->step = strtoll(r->facts[STEP_FACT], NULL, 10);
    copy_rows(s->embedding, &r->tensors[0]);
    copy_rows(s->m, &r->tensors[1]);
    copy_rows(s->v, &r->tensors[2]);
    copy_rows(s->subspace.history, &r->tensors[3]);
    copy_rows(s->subspace.removed, &r->tensors[4]);
    s->subspace.filled = r->tensors[3].shape[0];
    s->subspace.removed_rows = r->tensors[4].shape[0];
    s->looked = r->looked;
    s->ending = r->ending;
    copy_rows(s->best, &r->tensors[STATE_BEST]);
    s->noise = r->noise;
    s->noise.count = r->tensors[STATE_SLOPES].shape[0];
    copy_rows(s->noise.slopes[0], &r->tensors[STATE_SLOPES]);
    copy_rows(apart, outliers);
    memory_free(s->outliers);
    s->outliers = apart;
    s->outlier_count = outliers->shape[0];
    copy_rows(rows, basis);
    memory_free(s->basis.rows);
    s->basis.rows = rows;
    s->basis.rank = basis->shape[0];
    return ok();
}

static void warn_of_device(const struct reading *r, const char *path, const struct origin *origin,
                           void (*warn)(const char *text))
{
    char text[PATH_SIZE + 300];
    const char *there = r->origin.facts[ORIGIN_DEVICE], *here = origin->facts[ORIGIN_DEVICE];
    snprintf(text, sizeof text, "%s: made on %.100s, and this is %.100s: bits will differ from those of a run on one",
             path, there, here);
    if (strcmp(there, here) != 0)
        warn(text);
}

static struct error copy_recipe(char **recipe, const struct reading *r)
{
    *recipe = memory_string(r->origin.facts[ORIGIN_RECIPE]);
    return *recipe ? ok() : error_memory("a recipe");
}

/* ERROR_FAILED: damaged, so try an older one; ERROR_BAD_INPUT: intact, but not for this run. *unread: it may be intact,
 * but the system could not read it. s may be NULL: is it this run's? origin, too: what is its recipe? */
static struct error read_checkpoint(struct state *s, const char *path, const struct origin *origin, char **recipe,
                                    void (*warn)(const char *text), bool *unread)
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
        e = origin ? error_in(origin_compare(&r.origin, origin), "%s", path) : copy_recipe(recipe, &r);
    if (e.code == ERROR_NONE && s)
        e = check_shapes(&r, s, path);
    if (e.code == ERROR_NONE && s) {
        warn_of_device(&r, path, origin, warn);
        e = copy_state(s, &r);
    }
    safetensors_close(&r.file);
    return e;
}

struct error checkpoint_read(struct state *s, const char *path, const struct origin *origin)
{
    bool unread;
    struct error e = read_checkpoint(s, path, origin, NULL, log_nothing, &unread);
    if (e.code != ERROR_NONE && !unread)
        e.code = ERROR_BAD_INPUT;
    return e;
}

/* What a search for a checkpoint knows. */
struct search {
    const char *folder;
    const struct origin *origin; /* NULL: of whatever run, and */
    char **recipe;               /* this is what is looked for */
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
        struct error e = read_checkpoint(s, path, search->origin, search->recipe, search->warn, &unread);
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

/* Looks through a folder: see checkpoint_resume. */
static struct error search_folder(struct state *s, struct search *search, int64_t recorded)
{
    int64_t *steps, count, later = 0;
    enum path_kind kind;
    TRY(path_look(search->folder, &kind));
    if (kind != PATH_FOLDER)
        return ok();
    TRY(list_steps(search->folder, &steps, &count));
    while (later < count && steps[later] > recorded)
        later++;
    struct error e = read_first(s, search, steps + later, count - later);
    if (e.code == ERROR_NONE && search->found && later > 0)
        warn_of_later(search, steps[0], s->step);
    if (e.code == ERROR_NONE)
        e = read_first(s, search, steps, later);
    memory_free(steps);
    return e.code == ERROR_NONE && !search->found ? search->unread : e;
}

struct error checkpoint_resume(struct state *s, const char *folder, const struct origin *origin, int64_t recorded,
                               bool *found, void (*warn)(const char *text))
{
    struct search search = {.folder = folder, .origin = origin, .warn = warn};
    struct error e = search_folder(s, &search, recorded);
    *found = search.found;
    return e;
}

struct error checkpoint_check(const char *folder, const struct origin *origin)
{
    bool found;
    return checkpoint_resume(NULL, folder, origin, INT64_MAX, &found, log_nothing);
}

struct error checkpoint_recipe(const char *folder, char **recipe)
{
    struct search search = {.folder = folder, .recipe = recipe, .warn = log_nothing};
    *recipe = NULL;
    return search_folder(NULL, &search, INT64_MAX);
}

bool checkpoint_any(const char *folder)
{
    int64_t *steps = NULL, count = 0;
    bool found = false;
    if (!folder_exists(folder) || list_steps(folder, &steps, &count).code != ERROR_NONE)
        return false;
    for (int64_t i = 0; i < count && !found; i++) {
        char path[PATH_SIZE];
        struct reading r;
        if (step_path(path, folder, steps[i]).code != ERROR_NONE || safetensors_open(&r.file, path).code != ERROR_NONE)
            continue;
        found = check_whole(&r, path).code != ERROR_FAILED; // also if it is of another format
        safetensors_close(&r.file);
    }
    memory_free(steps);
    return found;
}
