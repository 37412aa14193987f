#include "queue/earlier.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "files/file.h"
#include "pipeline/fingerprint.h"
#include "queue/results.h"

static const double apart = 60; /* seconds from reading a job.json to having written it into summary.json, at most */
static const char *const recipe_key = "recipe_crc32";

/* When a file was last written, in seconds since 1970; 0: it is not there. */
static double time_of(const char *folder, const char *name)
{
    char path[PATH_SIZE];
    struct stat found;
    if (path_join(path, folder, name).code != ERROR_NONE || stat(path, &found) != 0)
        return 0;
    return (double)found.st_mtim.tv_sec + 1e-9 * (double)found.st_mtim.tv_nsec;
}

/* The time first: a summary that replaces this one meanwhile is the newer. */
static void open_summary(struct earlier *e)
{
    char path[PATH_SIZE];
    e->opened = true;
    e->written = time_of(e->folder, "summary.json");
    if (e->written > 0 && path_join(path, e->folder, "summary.json").code == ERROR_NONE &&
        json_open(&e->json, path).code == ERROR_NONE) {
        const cJSON *list = cJSON_GetObjectItemCaseSensitive(e->json.root, "jobs");
        e->entry = cJSON_IsArray(list) ? list->child : NULL;
    }
}

static void recipe_sum(char sum[16], const struct job *job)
{
    snprintf(sum, 16, "%08x", fingerprint_text(0, job->recipe));
}

static bool is_about(struct json *entry, const struct job *job)
{
    const int64_t most = INT64_C(1) << 53;
    char sum[16];
    recipe_sum(sum, job);
    return strcmp(json_string(entry, "name", ""), job->name) == 0 &&
           strcmp(json_string(entry, recipe_key, ""), sum) == 0 &&
           json_integer(entry, "steps_wanted", -1, 0, most) == job->steps;
}

bool earlier_take(struct earlier *e, struct job *job)
{
    if (!e->opened)
        open_summary(e);
    for (; e->entry && e->at < job->status.job; e->at++)
        e->entry = e->entry->next;
    struct json entry = {.path = "summary.json", .root = (cJSON *)e->entry};
    if (!cJSON_IsObject(e->entry) || !is_about(&entry, job))
        return false;
    struct job_status found = result_status(job->status.job, &entry);
    double submitted = json_number(&entry, "submitted", 0), changed = time_of(job->folder, "job.json");
    if ((found.state != JOB_DONE && found.state != JOB_FAILED) || found.finished <= 0 ||
        entry.error.code != ERROR_NONE || changed <= 0 || changed >= e->written - apart)
        return false;
    if (found.state == JOB_FAILED)
        found.error = error_failed("%s", json_string(&entry, "reason", ""));
    job->status = found;
    if (job->submitted <= 0)
        job->submitted = submitted;
    return true;
}

void earlier_close(struct earlier *e)
{
    json_close(&e->json);
}

void earlier_mark(cJSON *entry, const struct job *job)
{
    char sum[16];
    if (job->submitted > 0)
        cJSON_AddNumberToObject(entry, "submitted", job->submitted);
    if (!job->recipe)
        return;
    recipe_sum(sum, job);
    cJSON_AddStringToObject(entry, recipe_key, sum);
}
