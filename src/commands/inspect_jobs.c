#include "commands/inspect_jobs.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
#include "commands/commands.h"
#include "files/file.h"
#include "files/json.h"
#include "files/photos.h"
#include "queue/jobs.h"

/* So many jobs' photos are looked for: a network disk may take a millisecond for each. */
static const int64_t photos_limit = 10000;

static struct error looks_like_jobs(bool *is, const char *path, const char *text, int64_t size)
{
    cJSON *root;
    TRY(json_parse(&root, path, text, size));
    *is = cJSON_HasObjectItem(root, "jobs") || cJSON_HasObjectItem(root, "defaults");
    cJSON_Delete(root);
    return ok();
}

static bool is_wrong(const struct job *job)
{
    return job->status.state == JOB_FAILED;
}

struct widths {
    int number, steps, name; /* of the table's columns */
};

static int wider(int width, int other)
{
    return width > other ? width : other;
}

static struct widths find_widths(const struct jobs *jobs)
{
    const int most = 40; // a longer name moves what follows it
    struct widths w = {.number = wider(3, snprintf(NULL, 0, "%lld", (long long)jobs->count)), .steps = 5, .name = 4};
    for (int64_t i = 0; i < jobs->count; i++) {
        const struct job *job = &jobs->items[i];
        w.steps = wider(w.steps, snprintf(NULL, 0, "%lld", (long long)job->steps));
        w.name = wider(w.name, (int)strnlen(job->name, (size_t)most));
    }
    return w;
}

static void print_job(const struct job *job, int64_t number, struct widths w)
{
    struct texts images = job->config.data.images;
    printf("  %*lld  ", w.number, (long long)number);
    if (is_wrong(job)) {
        printf("%*s  %-*s  %s\n", w.steps, "wrong", w.name, job->name, job->status.error.text);
        return;
    }
    text_show_safely(images.items[0]);
    printf("%*lld  %-*s  %s", w.steps, (long long)job->steps, w.name, job->name, images.items[0]);
    if (images.count > 1)
        printf(" and %lld more", (long long)images.count - 1);
    printf("\n");
}

static void print_head(struct jobs *jobs, const char *path)
{
    struct job *right = jobs_first_pending(jobs);
    text_show_safely(right->config.model);
    text_show_safely(jobs->folder);
    printf("%s: a jobs file\n", path);
    printf("  jobs        %lld\n", (long long)jobs->count);
    printf("  model       %s\n  output.dir  %s\n\n", right->config.model, jobs->folder);
}

static struct error check_files(const struct config *config)
{
    TRY(photos_check(config));
    if (!config_initializer_is_file(config) || file_exists(config->token.initializer))
        return ok();
    return config_blame(config, "token.initializer",
                        error_input("\"%.300s\": no such file", config->token.initializer));
}

/* Makes those wrong that lack theirs. */
static void look_for_photos(struct jobs *jobs, const int64_t *shown, int64_t count)
{
    struct progress progress;
    progress_phase(&progress, "looking for the photos", count, "jobs");
    for (int64_t i = 0; i < count; i++) {
        struct job *job = &jobs->items[shown[i]];
        struct error e = is_wrong(job) ? ok() : check_files(&job->config);
        if (e.code != ERROR_NONE)
            job_fail(job, e);
        progress_step(&progress, i + 1, "");
    }
    progress_end(&progress);
}

static void print_wrong(const struct jobs *jobs, const int64_t *shown, int64_t count)
{
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; i++)
        wrong += is_wrong(&jobs->items[shown[i]]);
    printf("\n%lld of %lld jobs are wrong", (long long)wrong, (long long)count);
    if (count > photos_limit)
        printf("; photos were looked for of the first %lld only", (long long)photos_limit);
    printf("\n");
}

static void print_jobs(struct jobs *jobs, const char *path, const int64_t *shown, int64_t count)
{
    struct widths w = find_widths(jobs);
    print_head(jobs, path);
    look_for_photos(jobs, shown, count < photos_limit ? count : photos_limit);
    printf("  %*s  %*s  %-*s  pictures\n", w.number, "job", w.steps, "steps", w.name, "name");
    for (int64_t i = 0; i < count; i++)
        print_job(&jobs->items[shown[i]], shown[i] + 1, w);
    print_wrong(jobs, shown, count);
}

/* Places of the jobs to show -> shown [their count]; all, if none is named. */
static struct error select_jobs(const struct jobs *jobs, const struct text_list *which, int64_t *shown)
{
    for (int64_t i = 0; i < which->count; i++)
        TRY(jobs_find(jobs, which->items[i], &shown[i]));
    for (int64_t i = 0; i < jobs->count && which->count == 0; i++)
        shown[i] = i;
    return ok();
}

static struct error show_jobs(struct jobs *jobs, const char *path, const struct text_list *which)
{
    int64_t count = which->count ? which->count : jobs->count;
    int64_t *shown = memory_alloc(count, sizeof *shown);
    struct error e = shown ? select_jobs(jobs, which, shown) : error_memory("the jobs");
    if (e.code == ERROR_NONE)
        print_jobs(jobs, path, shown, count);
    memory_free(shown);
    return e;
}

static struct error read_and_print(const char *path, const char *text, int64_t size, const struct text_list *sets,
                                   const struct text_list *which)
{
    const struct jobs_source source = {.kind = JOBS_FILE, .name = path, .sets = sets};
    struct jobs jobs;
    struct error e = jobs_read(&jobs, &source, text, size);
    if (e.code == ERROR_NONE)
        e = show_jobs(&jobs, path, which);
    jobs_free(&jobs);
    return e;
}

struct error inspect_jobs(const char *path, const struct text_list *sets, const struct text_list *which, bool *is)
{
    char *text;
    int64_t size;
    *is = false;
    TRY(file_read(path, JOBS_FILE_LIMIT, &text, &size));
    struct error e = looks_like_jobs(is, path, text, size);
    if (e.code == ERROR_NONE && *is)
        e = read_and_print(path, text, size, sets, which);
    memory_free(text);
    return e;
}
