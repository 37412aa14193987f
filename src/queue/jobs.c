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
#include "cluster/share.h"
#include "files/file.h"
#include "files/json.h"

enum { NAME_LIMIT = 200, JOBS_LIMIT = 100000 };

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

bool job_sets_folder(const cJSON *object)
{
    const cJSON *output = cJSON_GetObjectItemCaseSensitive(object, "output");
    return cJSON_GetObjectItemCaseSensitive(object, "output.dir") || cJSON_GetObjectItemCaseSensitive(output, "dir");
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

/* The job's own keys: an error in them is the job's own. */
static struct error read_job(struct jobs *jobs, struct job *job, const struct config_layer layers[2],
                             const struct text_list *sets)
{
    struct config *c = &job->config;
    struct error e = config_layers(c, layers, 2, sets);
    if (e.code == ERROR_BAD_INPUT) {
        job_fail(job, e);
        return ok();
    }
    TRY(e);
    if (!jobs->folder)
        jobs->folder = memory_string(c->output.dir);
    TRY(jobs->folder ? find_folder(job) : error_memory("a job"));
    int64_t side = c->data.resolution ? c->data.resolution : 1;
    job->steps = c->optim.steps;
    job->lanes = (c->zo.sides * c->zo.n + 1) * c->optim.batch_size;
    job->cost = (double)job->steps * (double)job->lanes * (double)(side * side);
    return ok();
}

/* Reads what a spool says about its job besides the config, which is returned. */
static const cJSON *read_spooled(struct job *job, const cJSON *object)
{
    const cJSON *submitted = cJSON_GetObjectItemCaseSensitive(object, "submitted");
    bool resume = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, "resume"));
    job->start = resume ? START_RESUME : START_NEW;
    job->submitted = cJSON_IsNumber(submitted) ? submitted->valuedouble : 0;
    return cJSON_GetObjectItemCaseSensitive(object, "config");
}

/* What errors in a job's own keys name: the file and the job, or the file that was put into the spool for it. */
static void blame_of(char out[PATH_SIZE], const struct jobs_source *source, const char *name)
{
    snprintf(out, PATH_SIZE, source->kind == JOBS_SPOOL ? "%s/%s.json" : "%s: %s", source->name, name);
}

static struct error add_job(struct jobs *jobs, struct job *job, const cJSON *object, const struct jobs_source *source,
                            const struct config_layer *defaults, const struct text_list *sets)
{
    char own[PATH_SIZE];
    blame_of(own, source, job->name);
    const cJSON *config = jobs->kind == JOBS_SPOOL ? read_spooled(job, object) : object;
    if (job_sets_folder(config)) {
        struct error e =
            error_input("%s: output.dir: expected in the defaults only; a job's folder is named after it", own);
        if (jobs->kind == JOBS_FILE)
            return e;
        job_fail(job, e);
        return ok();
    }
    const struct config_layer layers[2] = {*defaults, {config, own}};
    return read_job(jobs, job, layers, sets);
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

static struct error read_root(struct jobs *jobs, cJSON *root, const struct jobs_source *source,
                              const struct text_list *sets)
{
    TRY(check_keys(root, source->name));
    cJSON *none = cJSON_CreateObject();
    const cJSON *defaults = cJSON_GetObjectItemCaseSensitive(root, "defaults");
    char named[PATH_SIZE];
    snprintf(named, sizeof named, "%s: defaults", source->name);
    const struct config_layer layer = {defaults ? defaults : none, source->defaults ? source->defaults : named};
    cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "jobs");
    jobs->items = memory_alloc(cJSON_GetArraySize(list), sizeof *jobs->items);
    struct error e = none && jobs->items ? config_check(&layer, 1, sets) : error_memory("the jobs");
    if (e.code == ERROR_NONE)
        e = read_names(jobs, list, source->name);
    struct job *job = jobs->items;
    struct progress progress;
    progress_phase(&progress, "reading the jobs", cJSON_GetArraySize(list), "");
    for (const cJSON *object = list->child; object && e.code == ERROR_NONE; object = object->next) {
        e = add_job(jobs, job++, object, source, &layer, sets);
        progress_step(&progress, job - jobs->items, "");
    }
    progress_end(&progress);
    cJSON_Delete(none);
    return e.code == ERROR_NONE && jobs->kind == JOBS_FILE ? check_one_model(jobs, source->name) : e;
}

struct error jobs_read(struct jobs *jobs, const struct jobs_source *source, const char *text, int64_t size,
                       const struct text_list *sets)
{
    *jobs = (struct jobs){.kind = source->kind};
    cJSON *root;
    TRY(json_parse(&root, source->name, text, size));
    struct error e = read_root(jobs, root, source, sets);
    cJSON_Delete(root);
    return e;
}

void jobs_free(struct jobs *jobs)
{
    for (int64_t i = 0; i < jobs->count; i++) {
        struct job *job = &jobs->items[i];
        if (job->has_subject)
            subject_free(&job->subject);
        config_free(&job->config);
        memory_free(job->name);
        memory_free(job->folder);
        memory_free(job->recipe);
    }
    memory_free(jobs->items);
    memory_free(jobs->folder);
    *jobs = (struct jobs){0};
}

/* -------------------------------------------------------------------------------- states */

const char *job_state_name(int64_t state)
{
    static const char *const names[] = {[JOB_WAITING] = "waiting",
                                        [JOB_RUNNING] = "running",
                                        [JOB_STOPPED] = "stopped",
                                        [JOB_DONE] = "done",
                                        [JOB_FAILED] = "failed"};
    return state >= 0 && state < (int64_t)(sizeof names / sizeof *names) ? names[state] : "unknown";
}

int64_t job_state_of(const char *name)
{
    for (int64_t state = JOB_WAITING; state <= JOB_FAILED; state++)
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
static struct error find_number(const struct jobs *jobs, const char *number, const char *source, int64_t *at)
{
    *at = strtoll(number, NULL, 10) - 1;
    if (*at < 0)
        return error_input("--job: %s: jobs are counted from 1", number);
    return *at < jobs->count ? ok()
                             : error_input("--job: %s: %s has %lld jobs", number, source, (long long)jobs->count);
}

static struct error find_name(const struct jobs *jobs, const char *name, const char *source, int64_t *at)
{
    struct nearest near = {0};
    for (*at = 0; *at < jobs->count; ++*at) {
        if (strcmp(jobs->items[*at].name, name) == 0)
            return ok();
        nearest_try(&near, name, jobs->items[*at].name);
    }
    return error_input("--job: %s: %s has no job of that name%s%s%s", name, source, near.name ? "; did you mean " : "",
                       near.name ? near.name : "", near.name ? "?" : "");
}

struct error jobs_select(struct jobs *jobs, const char *which, const char *source)
{
    int64_t at;
    bool number = *which && strspn(which, "0123456789") == strlen(which);
    TRY((number ? find_number : find_name)(jobs, which, source, &at));
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
    job->status.finished = clock_date();
}

/* -------------------------------------------------------------------------------- order */

static int compare_costs(const void *a, const void *b, void *arg)
{
    const struct job *items = arg, *one = &items[*(const int64_t *)a], *other = &items[*(const int64_t *)b];
    if (one->cost != other->cost)
        return one->cost > other->cost ? -1 : 1;
    return (one > other) - (one < other);
}

int64_t jobs_order(const struct jobs *jobs, int64_t *order)
{
    int64_t count = 0;
    for (int64_t i = 0; i < jobs->count; i++)
        if (job_is_pending(&jobs->items[i]))
            order[count++] = i;
    if (count > 1)
        qsort_r(order, (size_t)count, sizeof *order, compare_costs, jobs->items);
    return count;
}

/* The cost of a step for a group, in evaluations: the largest share of a rank (tangents, and the pictures that they
 * belong to), plus a part that each rank pays however few evaluations it has (reading and unpacking weights, exchanging
 * losses). */
static double step_cost(const struct job *job, int ranks)
{
    static const double each_rank = 0.25;
    const struct config *c = job->has_subject ? &job->subject.config : &job->config;
    bool tangents = c->zo.derivative == DERIVATIVE_TANGENT;
    const struct share_work work = {
        .pieces = tangents ? c->zo.n * c->optim.batch_size : job->lanes, .group = tangents ? c->zo.n : 0, .gamma = 1};
    return each_rank + share_cost(&work, share_of(work.pieces, 0, ranks));
}

/* How long the queue takes with this many groups, if each job goes to the group that is free first. busy [groups]. */
static double queue_cost(const struct jobs *jobs, const int64_t *order, int64_t count, int ranks, int groups,
                         double *busy)
{
    double longest = 0;
    memset(busy, 0, (size_t)groups * sizeof *busy);
    for (int64_t i = 0; i < count; i++) {
        const struct job *job = &jobs->items[order[i]];
        int free = 0;
        for (int g = 1; g < groups; g++)
            if (busy[g] < busy[free])
                free = g;
        busy[free] += job->cost / (double)job->lanes * step_cost(job, ranks / groups);
        longest = busy[free] > longest ? busy[free] : longest;
    }
    return longest;
}

int jobs_best_groups(const struct jobs *jobs, int ranks)
{
    int64_t *order = memory_alloc(jobs->count, sizeof *order);
    double *busy = memory_alloc(ranks, sizeof *busy);
    int best = 1;
    double least = 0;
    int64_t count = order && busy ? jobs_order(jobs, order) : 0;
    for (int groups = 1; groups <= ranks && groups <= count; groups++) {
        double cost = queue_cost(jobs, order, count, ranks, groups, busy);
        if (groups == 1 || cost < least) {
            least = cost;
            best = groups;
        }
    }
    memory_free(order);
    memory_free(busy);
    return best;
}
