#include "queue/jobs.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/nearest.h"
#include "base/progress.h"
#include "files/file.h"
#include "files/json.h"

enum { NAME_LIMIT = 200, JOBS_LIMIT = 100000, SPOOL_KEPT = 2000 };

/* -------------------------------------------------------------------------------- reading */

/* The queue's own files, which are in the same folder as the jobs' folders. */
static bool is_reserved(const char *name)
{
    return strcmp(name, "summary.json") == 0 || strcmp(name, "index.html") == 0;
}

struct error job_name_check(const char *name)
{
    const char *wrong = NULL;
    if (!*name || strlen(name) > NAME_LIMIT)
        wrong = "must have 1 to 200 bytes";
    else if (*name == '.')
        wrong = "must not begin with a dot";
    else if (strchr(name, '/'))
        wrong = "must not contain a slash";
    else if (is_reserved(name))
        wrong = "is the name of one of the queue's own files";
    utf8proc_int32_t code;
    utf8proc_ssize_t bytes;
    for (const char *c = name; *c && !wrong; c += bytes) {
        bytes = utf8proc_iterate((const utf8proc_uint8_t *)c, -1, &code);
        if (bytes <= 0)
            wrong = "is not UTF-8 text";
        else if (utf8proc_category(code) == UTF8PROC_CATEGORY_CC)
            wrong = "must not contain control characters";
    }
    return wrong ? error_input("name: \"%.60s\" %s: it becomes a folder", name, wrong) : ok();
}

/* Reads the job's name from its object into the next item of the list. */
static struct error read_name(struct jobs *jobs, cJSON *object)
{
    struct job *job = &jobs->items[jobs->count];
    if (!cJSON_IsObject(object))
        return error_input("expected an object, {\"name\": ...}");
    cJSON *name = cJSON_DetachItemFromObjectCaseSensitive(object, "name");
    struct error e = cJSON_IsString(name)
                         ? job_name_check(name->valuestring)
                         : error_input("name: %s", name ? "expected a text" : "is missing, expected a text");
    if (e.code == ERROR_NONE && !(job->name = memory_string(name->valuestring)))
        e = error_memory("a job");
    cJSON_Delete(name);
    TRY(e);
    job->status = job_status_unknown(jobs->count++);
    return ok();
}

/* By name, and jobs of one name by their place in the list. */
static int compare_names(const void *a, const void *b)
{
    const struct job *one = *(struct job *const *)a, *other = *(struct job *const *)b;
    int order = strcmp(one->name, other->name);
    return order ? order : (one > other) - (one < other);
}

/* Two jobs of one name would write into one folder. The first job whose name an earlier one has is named. */
static struct error check_names(const struct jobs *jobs, const char *source)
{
    const struct job *again = NULL;
    struct job **sorted = memory_alloc(jobs->count, sizeof *sorted);
    if (!sorted)
        return error_memory("the jobs");
    for (int64_t i = 0; i < jobs->count; i++)
        sorted[i] = &jobs->items[i];
    qsort(sorted, (size_t)jobs->count, sizeof *sorted, compare_names);
    for (int64_t i = 1; i < jobs->count; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0 && (!again || sorted[i] < again))
            again = sorted[i];
    memory_free(sorted);
    return again ? error_input("%s: jobs[%lld]: name: \"%s\" is given twice", source, (long long)(again - jobs->items),
                               again->name)
                 : ok();
}

static struct error read_names(struct jobs *jobs, cJSON *list, const char *source)
{
    for (cJSON *object = list->child; object; object = object->next)
        TRY(error_in(read_name(jobs, object), "%s: jobs[%lld]", source, (long long)jobs->count));
    return check_names(jobs, source);
}

/* Has an object of config keys output.KEY, nested or with a dot? */
static bool sets_output(const cJSON *object, const char *key)
{
    char dotted[32];
    snprintf(dotted, sizeof dotted, "output.%s", key);
    const cJSON *output = cJSON_GetObjectItemCaseSensitive(object, "output");
    return cJSON_GetObjectItemCaseSensitive(object, dotted) || cJSON_GetObjectItemCaseSensitive(output, key);
}

bool job_sets_folder(const cJSON *object)
{
    return sets_output(object, "dir");
}

struct error job_set_recipe(struct job *job, const struct config *config)
{
    memory_free(job->recipe);
    job->recipe = config_recipe(config);
    return job->recipe ? ok() : error_memory("a job");
}

static struct error find_folder(struct job *job)
{
    char folder[PATH_SIZE];
    struct config *c = &job->config;
    TRY(path_join(folder, c->output.dir, job->name));
    job->folder = memory_string(folder);
    memory_free(c->output.dir);
    c->output.dir = memory_string(folder);
    TRY(job->folder && c->output.dir ? ok() : error_memory("a job"));
    return job_set_recipe(job, c);
}

/* What errors in a job's own keys name: the file and the job, or the file that was put into the spool for it. */
static void blame_of(char out[PATH_SIZE], const struct jobs_source *source, const char *name)
{
    snprintf(out, PATH_SIZE, source->kind == JOBS_SPOOL ? "%s/%s.json" : "%s: %s", source->name, name);
}

/* The same for the defaults. */
static void blame_defaults(char out[PATH_SIZE], const struct jobs_source *source)
{
    if (source->kind == JOBS_SPOOL)
        snprintf(out, PATH_SIZE, "%s", source->defaults ? source->defaults : source->name);
    else
        snprintf(out, PATH_SIZE, "%s: defaults", source->name);
}

/* Whoever may put a file into a spool may not have it run programs. */
static struct error check_own(const char *own, enum jobs_kind kind, const cJSON *keys)
{
    if (job_sets_folder(keys))
        return error_input("%s: output.dir: expected in the defaults only; a job's folder is named after it", own);
    if (kind == JOBS_SPOOL && sets_output(keys, "on_end"))
        return error_input("%s: output.on_end: expected in the defaults or --set only: it names a program", own);
    return ok();
}

struct error job_read_keys(const struct jobs *jobs, struct job *job, const cJSON *keys)
{
    char own[PATH_SIZE], defaults[PATH_SIZE];
    struct config *c = &job->config;
    blame_of(own, &jobs->source, job->name);
    blame_defaults(defaults, &jobs->source);
    TRY(check_own(own, jobs->source.kind, keys));
    const struct config_layer layers[2] = {{jobs->defaults, defaults}, {keys, own}};
    TRY(config_layers(c, layers, 2, jobs->source.sets));
    TRY(find_folder(job));
    int64_t side = c->data.resolution ? c->data.resolution : 1;
    job->steps = c->optim.steps;
    job->lanes = (c->zo.sides * c->zo.n + 1) * c->optim.batch_size;
    job->cost = (double)job->steps * (double)job->lanes * (double)(side * side);
    return ok();
}

/* Keeps the keys as text, too. What is wrong with them is in the job's status. */
static struct error take_keys(struct jobs *jobs, struct job *job, const cJSON *keys)
{
    char *text = cJSON_PrintUnformatted(keys);
    job->keys = text ? memory_string(text) : NULL;
    cJSON_free(text);
    struct error e = job->keys ? job_read_keys(jobs, job, keys) : error_memory("a job");
    if (e.code != ERROR_BAD_INPUT)
        return e;
    job_fail(job, e);
    return ok();
}

/* Of a file. A job that would change the folder of all is refused with it. */
static struct error read_job(struct jobs *jobs, struct job *job, const cJSON *keys)
{
    char own[PATH_SIZE];
    blame_of(own, &jobs->source, job->name);
    TRY(check_own(own, jobs->source.kind, keys));
    return take_keys(jobs, job, keys);
}

static struct error check_keys(const cJSON *root, const char *source)
{
    for (const cJSON *child = root->child; child; child = child->next)
        if (strcmp(child->string, "defaults") != 0 && strcmp(child->string, "jobs") != 0)
            return error_input("%s: %.80s: unknown key; expected defaults and jobs, as in zoodip run --help", source,
                               child->string);
    const cJSON *defaults = cJSON_GetObjectItemCaseSensitive(root, "defaults");
    const cJSON *jobs = cJSON_GetObjectItemCaseSensitive(root, "jobs");
    if (defaults && !cJSON_IsObject(defaults))
        return error_input("%s: defaults: expected an object of config keys", source);
    if (!cJSON_IsArray(jobs) || !jobs->child)
        return error_input("%s: jobs: expected a list of jobs, [{\"name\": ...}, ...]", source);
    if (cJSON_GetArraySize(jobs) > JOBS_LIMIT)
        return error_input("%s: jobs: expected at most %d", source, JOBS_LIMIT);
    return ok();
}

/* All jobs share one loaded model. */
static struct error check_one_model(struct jobs *jobs, const char *source)
{
    const struct job *first = jobs_first_pending(jobs);
    for (int64_t i = 0; i < jobs->count; i++) {
        const struct job *job = &jobs->items[i];
        const char *key = job_is_pending(job) ? pipeline_difference(&first->config, &job->config) : NULL;
        if (key)
            return error_input("%s: %s: %s: differs from %s's; all jobs share one loaded model", source, job->name, key,
                               first->name);
    }
    return first ? ok() : jobs->items[0].status.error;
}

/* The folder of the defaults, if they have one; a job that lacks it is told so. */
static struct error read_folder(struct jobs *jobs)
{
    char blame[PATH_SIZE];
    struct config config;
    blame_defaults(blame, &jobs->source);
    const struct config_layer layer = {jobs->defaults, blame};
    TRY(config_partial(&config, &layer, 1, jobs->source.sets));
    if (config.output.dir)
        jobs->folder = memory_string(config.output.dir);
    bool lost = config.output.dir && !jobs->folder;
    config_free(&config);
    return lost ? error_memory("the jobs") : ok();
}

/* Takes "defaults" out of the file. */
static struct error read_defaults(struct jobs *jobs, cJSON *root)
{
    jobs->defaults = cJSON_DetachItemFromObjectCaseSensitive(root, "defaults");
    if (!jobs->defaults)
        jobs->defaults = cJSON_CreateObject();
    return jobs->defaults ? read_folder(jobs) : error_memory("the jobs");
}

static struct error read_root(struct jobs *jobs, cJSON *root)
{
    const char *name = jobs->source.name;
    TRY(check_keys(root, name));
    TRY(read_defaults(jobs, root));
    cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "jobs");
    int64_t count = cJSON_GetArraySize(list);
    jobs->items = memory_alloc(count, sizeof *jobs->items);
    TRY(jobs->items ? read_names(jobs, list, name) : error_memory("the jobs"));
    struct error e = ok();
    struct job *job = jobs->items;
    struct progress progress;
    progress_phase(&progress, "reading the jobs", count, "");
    for (const cJSON *object = list->child; object && e.code == ERROR_NONE; object = object->next) {
        e = read_job(jobs, job++, object);
        progress_step(&progress, job - jobs->items, "");
    }
    progress_end(&progress);
    return e.code == ERROR_NONE ? check_one_model(jobs, name) : e;
}

struct error jobs_read(struct jobs *jobs, const struct jobs_source *source, const char *text, int64_t size)
{
    cJSON *root;
    *jobs = (struct jobs){.source = *source};
    TRY(json_parse(&root, source->name, text, size));
    struct error e = read_root(jobs, root);
    cJSON_Delete(root);
    return e;
}

struct error jobs_begin(struct jobs *jobs, const struct jobs_source *source, cJSON *defaults)
{
    *jobs = (struct jobs){.source = *source, .defaults = defaults};
    return read_folder(jobs);
}

/* The place for a new job in a spool's list: that of one of the same name that has ended but is not done, or is this
 * one itself, which resumes; or of the one that ended first, if the list is long; NULL: a new place. */
static struct job *reusable(const struct jobs *jobs, const char *name, enum start start)
{
    struct job *oldest = NULL;
    for (int64_t i = 0; i < jobs->count; i++) {
        struct job *job = &jobs->items[i];
        if (job_is_pending(job))
            continue;
        if (strcmp(job->name, name) == 0 && (job->status.state != JOB_DONE || start == START_RESUME))
            return job;
        if (!oldest || job->status.finished < oldest->status.finished)
            oldest = job;
    }
    return jobs->count < SPOOL_KEPT ? NULL : oldest;
}

/* A place with a name and nothing else. */
static struct error add_named(struct jobs *jobs, const char *name, enum start start, struct job **added)
{
    struct job *job = reusable(jobs, name, start);
    if (job) {
        job_free(job);
    } else {
        struct job *more = memory_grow(jobs->items, jobs->count, &jobs->room, sizeof *more);
        if (!more)
            return error_memory("a job");
        jobs->items = more;
        job = &more[jobs->count++];
    }
    *job = (struct job){.name = memory_string(name), .start = start, .sources = -1};
    job->status = job_status_unknown(job - jobs->items);
    *added = job;
    return job->name ? ok() : error_memory("a job");
}

struct error jobs_add(struct jobs *jobs, const char *name, const cJSON *keys, enum start start, double submitted,
                      struct job **added)
{
    TRY(add_named(jobs, name, start, added));
    (*added)->submitted = submitted;
    return take_keys(jobs, *added, keys);
}

struct error jobs_add_past(struct jobs *jobs, const char *name, const struct job_status *status, int64_t wanted,
                           double submitted)
{
    struct job *job;
    char folder[PATH_SIZE];
    TRY(path_join(folder, jobs->folder, name));
    TRY(add_named(jobs, name, START_NEW, &job));
    job->external = job->past = true;
    job->steps = wanted;
    job->submitted = submitted;
    job->folder = memory_string(folder);
    int64_t place = job->status.job;
    job->status = *status;
    job->status.job = place;
    job->shown.state = status->state;
    return job->folder ? ok() : error_memory("a job");
}

struct error jobs_share(struct jobs *jobs, const struct jobs_source *source, struct comm *comm)
{
    bool first = comm_rank(comm) == 0;
    char *text = first ? cJSON_PrintUnformatted(jobs->defaults) : NULL;
    int64_t size = text ? (int64_t)strlen(text) : 0;
    struct error e = comm_agree(comm, first && !text ? error_memory("the defaults") : ok());
    if (e.code == ERROR_NONE)
        e = comm_share_text(comm, &text, &size);
    cJSON *defaults;
    if (e.code == ERROR_NONE && !first)
        e = json_parse(&defaults, source->name, text, size);
    if (e.code == ERROR_NONE && !first)
        e = jobs_begin(jobs, source, defaults);
    if (first)
        cJSON_free(text);
    else
        memory_free(text);
    return comm_agree(comm, e);
}

void job_free(struct job *job)
{
    config_free(&job->config);
    memory_free(job->name);
    memory_free(job->folder);
    memory_free(job->keys);
    memory_free(job->recipe);
    *job = (struct job){0};
}

void jobs_free(struct jobs *jobs)
{
    for (int64_t i = 0; i < jobs->count; i++)
        job_free(&jobs->items[i]);
    cJSON_Delete(jobs->defaults);
    memory_free(jobs->items);
    memory_free(jobs->folder);
    *jobs = (struct jobs){0};
}

/* -------------------------------------------------------------------------------- states */

const char *job_state_name(int64_t state)
{
    static const char *const names[] = {
        [JOB_WAITING] = "waiting", [JOB_RUNNING] = "running", [JOB_STOPPED] = "stopped",
        [JOB_DONE] = "done",       [JOB_FAILED] = "failed",   [JOB_CANCELLED] = "cancelled"};
    return state >= 0 && state < JOB_STATES ? names[state] : "unknown";
}

int64_t job_state_of(const char *name)
{
    for (int64_t state = JOB_WAITING; state < JOB_STATES; state++)
        if (strcmp(name, job_state_name(state)) == 0)
            return state;
    return JOB_WAITING;
}

struct job_status job_status_unknown(int64_t job)
{
    return (struct job_status){
        .job = job, .left = -1, .loss = NAN, .validation_first = NAN, .validation = NAN, .validation_best = NAN};
}

bool job_is_pending(const struct job *job)
{
    return !job->external && job->status.state < JOB_DONE;
}

/* The place of the job of this number, counted from 1. */
static struct error find_number(const struct jobs *jobs, const char *number, int64_t *at)
{
    *at = strtoll(number, NULL, 10) - 1;
    if (*at < 0)
        return error_input("--job: %s: jobs are counted from 1", number);
    return *at < jobs->count
               ? ok()
               : error_input("--job: %s: %s has %lld jobs", number, jobs->source.name, (long long)jobs->count);
}

static struct error find_name(const struct jobs *jobs, const char *name, int64_t *at)
{
    struct nearest near = {0};
    for (*at = 0; *at < jobs->count; ++*at) {
        if (strcmp(jobs->items[*at].name, name) == 0)
            return ok();
        nearest_try(&near, name, jobs->items[*at].name);
    }
    return error_input("--job: %s: %s has no job of that name%s%s%s", name, jobs->source.name,
                       near.name ? "; did you mean " : "", near.name ? near.name : "", near.name ? "?" : "");
}

struct error jobs_find(const struct jobs *jobs, const char *which, int64_t *at)
{
    bool number = *which && strspn(which, "0123456789") == strlen(which);
    return (number ? find_number : find_name)(jobs, which, at);
}

struct error jobs_select(struct jobs *jobs, const char *which)
{
    int64_t at;
    TRY(jobs_find(jobs, which, &at));
    for (int64_t i = 0; i < jobs->count; i++)
        jobs->items[i].external = i != at;
    return ok();
}

struct job *jobs_first_pending(struct jobs *jobs)
{
    for (int64_t i = 0; i < jobs->count; i++)
        if (job_is_pending(&jobs->items[i]))
            return &jobs->items[i];
    return NULL;
}

void job_fail(struct job *job, struct error e)
{
    job->status.state = JOB_FAILED;
    job->status.error = e;
    job->status.finished = job->status.since = clock_date();
}
