#include "queue/seen_job.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"
#include "files/file.h"
#include "files/json.h"

enum { FILE_LIMIT = 1 << 20, TEXT_LIMIT = 600, INTERVALS = 10 };

static const char *const state_names[] = {
    [SEEN_RUNNING] = "running",     [SEEN_GONE] = "gone",       [SEEN_FAILED] = "failed", [SEEN_STOPPED] = "stopped",
    [SEEN_CANCELLED] = "cancelled", [SEEN_WAITING] = "waiting", [SEEN_DONE] = "done",     [SEEN_UNKNOWN] = "unknown"};

const char *seen_name(int64_t state)
{
    return state_names[state];
}

/* -------------------------------------------------------------------------------- members */

enum kind { TEXT, STATE, COUNT, NUMBER };

/* Where a member of each kind of file goes. */
struct member {
    const char *status, *result; /* its key in status.json, and in job.json and summary.json; NULL: it has none */
    enum kind kind;
    size_t offset;
};

#define AT(field) offsetof(struct seen_job, field)

static const struct member members[] = {
    {"name", "name", TEXT, AT(name)},
    {"state", "state", STATE, AT(state)},
    {"reason", "reason", TEXT, AT(reason)},
    {"phase", "phase", TEXT, AT(phase)},
    {"step", "steps", COUNT, AT(step)},
    {"steps", "steps_wanted", COUNT, AT(steps)},
    {"loss", "loss", NUMBER, AT(loss)},
    {"validation_first", "validation_first", NUMBER, AT(validation_first)},
    {"validation_best", "validation_best", NUMBER, AT(validation_best)},
    {"best_step", "best_step", COUNT, AT(best_step)},
    {"evaluations_per_second", "evaluations_per_second", NUMBER, AT(evaluations_per_second)},
    {"seconds_left", "seconds_left", NUMBER, AT(seconds_left)},
    {"group", "group", COUNT, AT(group)},
    {"ranks", "ranks", COUNT, AT(ranks)},
    {"host", "host", TEXT, AT(host)},
    {"pid", "pid", COUNT, AT(pid)},
    {"seconds", "seconds", NUMBER, AT(seconds)},
    {"submitted", "submitted", NUMBER, AT(submitted)},
    {"began", "began", NUMBER, AT(began)},
    {"since", "since", NUMBER, AT(since)},
    {NULL, "finished", NUMBER, AT(since)},
    {"moved", "moved", NUMBER, AT(moved)},
    {"interval", "interval", NUMBER, AT(interval)},
    {"written", "written", NUMBER, AT(written)},
};

enum { MEMBERS = sizeof members / sizeof *members };

static void *place_of(const struct seen_job *job, const struct member *m)
{
    return (char *)job + m->offset;
}

struct seen_job seen_job_unknown(const char *name)
{
    struct seen_job job = {.state = SEEN_UNKNOWN};
    for (int i = 0; i < MEMBERS; i++) {
        if (members[i].kind == COUNT)
            *(int64_t *)place_of(&job, &members[i]) = -1;
        if (members[i].kind == NUMBER)
            *(double *)place_of(&job, &members[i]) = NAN;
    }
    job.name = name ? memory_string(name) : NULL;
    if (job.name)
        text_show_safely(job.name);
    return job;
}

void seen_job_free(struct seen_job *job)
{
    memory_free(job->name);
    memory_free(job->reason);
    memory_free(job->phase);
    memory_free(job->host);
}

/* -------------------------------------------------------------------------------- reading */

static char *safe_text(const cJSON *value)
{
    char text[TEXT_LIMIT + 1];
    if (!cJSON_IsString(value) || !value->valuestring[0])
        return NULL;
    snprintf(text, sizeof text, "%.*s", text_fitting(value->valuestring, TEXT_LIMIT), value->valuestring);
    text_show_safely(text);
    return memory_string(text);
}

static int64_t state_of(const cJSON *value)
{
    int64_t state = 0;
    while (state < SEEN_UNKNOWN && !(cJSON_IsString(value) && strcmp(value->valuestring, state_names[state]) == 0))
        state++;
    return state == SEEN_GONE ? SEEN_UNKNOWN : state;
}

static int64_t count_of(const cJSON *value)
{
    double number = cJSON_IsNumber(value) ? value->valuedouble : -1;
    return number >= 0 && number <= 0x1p53 && number == floor(number) ? (int64_t)number : -1;
}

static void put_text(char **place, const cJSON *value)
{
    char *text = safe_text(value);
    if (!text)
        return;
    memory_free(*place);
    *place = text;
}

/* What is not known leaves what was. A job that has not finished may say 0 there. */
static void put(struct seen_job *job, const struct member *m, const cJSON *value)
{
    void *place = place_of(job, m);
    bool number = cJSON_IsNumber(value) && isfinite(value->valuedouble) && (m->status || value->valuedouble > 0);
    if (m->kind == TEXT)
        put_text(place, value);
    if (m->kind == STATE)
        *(int64_t *)place = state_of(value);
    if (m->kind == COUNT && count_of(value) >= 0)
        *(int64_t *)place = count_of(value);
    if (m->kind == NUMBER && number)
        *(double *)place = value->valuedouble;
}

bool seen_job_take(struct seen_job *job, enum seen_source source, struct json_piece key, struct json_piece value)
{
    for (int i = 0; i < MEMBERS; i++) {
        const char *own = source == SEEN_STATUS ? members[i].status : members[i].result;
        if (!own || !json_piece_is(key, own))
            continue;
        cJSON *parsed = cJSON_ParseWithLength(value.text, (size_t)value.size);
        put(job, &members[i], parsed);
        cJSON_Delete(parsed);
        return true;
    }
    return false;
}

bool seen_job_parse(struct seen_job *job, enum seen_source source, struct json_piece text)
{
    struct json_pieces pieces;
    struct json_piece key, value;
    if (!json_pieces_open(&pieces, text) || !pieces.object)
        return false;
    while (json_pieces_next(&pieces, &key, &value))
        seen_job_take(job, source, key, value);
    return json_pieces_whole(&pieces);
}

bool seen_job_read(struct seen_job *job, enum seen_source source, const char *folder, const char *name)
{
    char path[PATH_SIZE], *text;
    int64_t size;
    struct stat status;
    if (path_join(path, folder, name).code != ERROR_NONE || !file_exists(path) ||
        file_read(path, FILE_LIMIT, &text, &size).code != ERROR_NONE)
        return false;
    bool good = seen_job_parse(job, source, (struct json_piece){text, size});
    memory_free(text);
    if (isnan(job->written) && stat(path, &status) == 0)
        job->written = (double)status.st_mtime;
    return good;
}

bool seen_job_look(struct seen_job *job, const char *folder, const char *name)
{
    *job = seen_job_unknown(name);
    if (seen_job_read(job, SEEN_STATUS, folder, "status.json"))
        return true;
    seen_job_free(job);
    *job = seen_job_unknown(name);
    if (seen_job_read(job, SEEN_RESULT, folder, "job.json"))
        return true;
    seen_job_free(job);
    return false;
}

/* -------------------------------------------------------------------------------- judging */

/* Is it a process of this host that has ended? */
static bool is_gone(const struct seen_job *job)
{
    char host[128] = "";
    gethostname(host, sizeof host - 1);
    text_show_safely(host);
    return job->host && strcmp(job->host, host) == 0 && job->pid > 0 && job->pid <= INT32_MAX &&
           kill((pid_t)job->pid, 0) != 0 && errno == ESRCH;
}

void seen_judge(struct seen_job *job, double now)
{
    if (isnan(job->moved))
        job->moved = job->written;
    if (job->state != SEEN_RUNNING) {
        job->seconds_left = NAN;
        if (!(job->seconds > 0)) // of a job that never began a step a summary says 0
            job->seconds = job->state != SEEN_WAITING && job->since >= job->began ? job->since - job->began : NAN;
        return;
    }
    job->gone = is_gone(job);
    job->silent = !job->gone && now - job->moved > INTERVALS * fmax(1, isnan(job->interval) ? 5 : job->interval);
    if (job->gone || job->silent)
        job->seconds_left = NAN;
    if (!isnan(job->seconds_left) && !isnan(job->written))
        job->seconds_left = fmax(0, job->seconds_left - fmax(0, now - job->written));
}

enum seen seen_shown(const struct seen_job *job)
{
    return job->gone ? SEEN_GONE : (enum seen)job->state;
}

bool seen_ended(const struct seen_job *job)
{
    return job->state == SEEN_DONE || job->state == SEEN_FAILED || job->state == SEEN_CANCELLED;
}

/* -------------------------------------------------------------------------------- printing */

static void add_member(cJSON *object, const struct member *m, const struct seen_job *job)
{
    const void *place = place_of(job, m);
    if (m->kind == TEXT && *(char *const *)place)
        cJSON_AddStringToObject(object, m->status, *(char *const *)place);
    if (m->kind == STATE)
        cJSON_AddStringToObject(object, m->status, seen_name(*(const int64_t *)place));
    if (m->kind == COUNT)
        json_add_number(object, m->status, *(const int64_t *)place >= 0 ? (double)*(const int64_t *)place : NAN);
    if (m->kind == NUMBER)
        json_add_number(object, m->status, *(const double *)place);
}

void seen_job_add(cJSON *object, const struct seen_job *job)
{
    for (int i = 0; i < MEMBERS; i++)
        if (members[i].status)
            add_member(object, &members[i], job);
    cJSON_AddBoolToObject(object, "gone", job->gone);
    cJSON_AddBoolToObject(object, "silent", job->silent);
}
