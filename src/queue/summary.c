#include "queue/summary.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "files/file.h"
#include "files/json.h"
#include "files/json_pieces.h"
#include "queue/earlier.h"
#include "queue/queue_page.h"
#include "queue/results.h"
#include "queue/schedule.h"

enum { SUMMARY_LIMIT = 1 << 28 }; /* bytes */

static const double summary_pause = 5, page_pause = 30; /* seconds between two of a kind, at least */
static const double dear = 2000;                        /* and as many times what one takes */

/* "submitted" of FOLDER/summary.json, which may be large, or 0. */
static double read_submitted(const char *folder)
{
    char path[PATH_SIZE], *text;
    int64_t size;
    struct json_pieces pieces;
    struct json_piece key, value;
    double submitted = 0;
    if (path_join(path, folder, "summary.json").code != ERROR_NONE || !file_exists(path) ||
        file_read(path, SUMMARY_LIMIT, &text, &size).code != ERROR_NONE)
        return 0;
    bool more = json_pieces_open(&pieces, (struct json_piece){text, size});
    while (more && submitted == 0 && (more = json_pieces_next(&pieces, &key, &value)))
        if (json_piece_is(key, "submitted"))
            submitted = strtod(value.text, NULL);
    memory_free(text);
    return isfinite(submitted) && submitted > 0 ? submitted : 0;
}

void results_begin(struct results *r, struct jobs *jobs, bool continued)
{
    *r = (struct results){.jobs = jobs, .began = clock_seconds(), .left = NAN};
    r->submitted = continued ? read_submitted(jobs->folder) : 0;
    if (r->submitted <= 0)
        r->submitted = clock_date();
}

/* Whatever the file holds. */
static struct error recall(struct results *r, const cJSON *object)
{
    struct json json = {.path = "summary.json", .root = (cJSON *)object};
    const char *name = json_string(&json, "name", "");
    struct job_status status = result_status(-1, &json);
    bool ended = status.state == JOB_DONE || status.state == JOB_FAILED || status.state == JOB_CANCELLED;
    if (status.state == JOB_FAILED)
        status.error = error_failed("%s", json_string(&json, "reason", ""));
    int64_t wanted = json_integer(&json, "steps_wanted", 0, 0, INT64_C(1) << 53);
    double submitted = json_number(&json, "submitted", 0);
    if (!ended || json.error.code != ERROR_NONE || job_name_check(name).code != ERROR_NONE)
        return ok();
    return jobs_add_past(r->jobs, name, &status, wanted, submitted);
}

struct error results_recall(struct results *r)
{
    struct json json;
    char path[PATH_SIZE];
    struct error e = ok();
    if (!r->jobs->folder || path_join(path, r->jobs->folder, "summary.json").code != ERROR_NONE ||
        json_open(&json, path).code != ERROR_NONE)
        return ok();
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json.root, "jobs");
    bool spool = cJSON_HasObjectItem(json.root, "spool") && cJSON_IsArray(list);
    for (const cJSON *job = spool ? list->child : NULL; job && e.code == ERROR_NONE; job = job->next)
        if (cJSON_IsObject(job))
            e = recall(r, job);
    json_close(&json);
    return e;
}

double results_turnaround(const struct results *r, const struct job *job)
{
    double submitted = job->submitted > 0 ? job->submitted : r->submitted;
    return job->status.finished > 0 ? fmax(0, job->status.finished - submitted) : NAN;
}

/* -------------------------------------------------------------------------------- all jobs */

void results_count(const struct results *r, int64_t *counts)
{
    for (int i = 0; i < JOB_STATES; i++)
        counts[i] = 0;
    for (int64_t i = 0; i < r->jobs->count; i++)
        counts[r->jobs->items[i].status.state]++;
}

bool results_others(const struct results *r)
{
    for (int64_t i = 0; i < r->jobs->count; i++)
        if (r->jobs->items[i].external && !r->jobs->items[i].past)
            return true;
    return false;
}

/* Updates the status of external jobs; true if any has changed. */
static bool read_external(struct results *r)
{
    bool changed = false;
    struct earlier earlier = {.folder = r->jobs->folder};
    for (int64_t i = 0; i < r->jobs->count; i++) {
        struct job *job = &r->jobs->items[i];
        struct job_status before = job->status;
        if (!job->external || job->past || !job->folder)
            continue;
        job->status = job_status_unknown(before.job);
        if (!earlier_take(&earlier, job))
            result_read(job);
        changed |= job->status.state != before.state || job->status.finished != before.finished;
    }
    earlier_close(&earlier);
    return changed;
}

/* -------------------------------------------------------------------------------- summary.json */

const char *results_state(const struct results *r)
{
    int64_t counts[JOB_STATES];
    results_count(r, counts);
    if (!r->ended)
        return "running";
    if (r->reason)
        return "failed";
    if (r->jobs->source.kind == JOBS_SPOOL)
        return "stopped"; // only a signal ends it
    if (counts[JOB_FAILED] > 0)
        return "failed";
    return counts[JOB_WAITING] + counts[JOB_RUNNING] + counts[JOB_STOPPED] > 0 ? "stopped" : "done";
}

/* When something last went on. */
static double last_move(const struct results *r)
{
    double moved = 0;
    for (int64_t i = 0; i < r->jobs->count; i++) {
        const struct job_status *s = &r->jobs->items[i].status;
        moved = fmax(moved, fmax(s->moved, s->finished));
    }
    return moved;
}

/* What is said of the queue as a whole, before its jobs. */
static cJSON *head_json(const struct results *r)
{
    char host[HOST_TEXT] = "";
    int64_t counts[JOB_STATES];
    double moved = last_move(r), now = clock_date();
    cJSON *o = cJSON_CreateObject();
    results_count(r, counts);
    gethostname(host, sizeof host - 1);
    cJSON_AddStringToObject(o, "state", results_state(r));
    if (r->reason)
        cJSON_AddStringToObject(o, "reason", r->reason);
    if (results_others(r))
        cJSON_AddTrueToObject(o, "array");
    if (r->jobs->source.kind == JOBS_SPOOL)
        cJSON_AddStringToObject(o, "spool", r->jobs->source.name);
    json_add_number(o, "submitted", r->submitted);
    json_add_number(o, "began", now - (clock_seconds() - r->began));
    json_add_number(o, "written", now);
    json_add_number(o, "moved", moved > 0 ? moved : NAN);
    json_add_number(o, "interval", fmax(summary_pause, dear * r->summary.took));
    json_add_number(o, "seconds", clock_seconds() - r->began);
    json_add_number(o, "seconds_left", r->left);
    json_add_number(o, "ranks", r->ranks);
    json_add_number(o, "groups", r->groups);
    cJSON_AddStringToObject(o, "host", host);
    json_add_number(o, "pid", getpid());
    cJSON *object = cJSON_AddObjectToObject(o, "counts");
    for (int i = 0; i < JOB_STATES; i++)
        json_add_number(object, job_state_name(i), (double)counts[i]);
    return o;
}

/* What only summary.json says of a job. */
static cJSON *job_json(const struct results *r, const struct job *job)
{
    const struct job_status *s = &job->status;
    cJSON *o = result_json(job);
    json_add_number(o, "turnaround", results_turnaround(r, job));
    if (s->since > 0)
        json_add_number(o, "since", s->since);
    if (s->finished > 0)
        json_add_number(o, "finished", s->finished);
    earlier_mark(o, job);
    if (s->state != JOB_RUNNING)
        return o;
    if (s->phase[0])
        cJSON_AddStringToObject(o, "phase", s->phase);
    json_add_number(o, "evaluations_per_second", s->evaluations_per_second);
    json_add_number(o, "seconds_left", s->left >= 0 ? s->left : NAN);
    json_add_number(o, "group", (double)s->group);
    json_add_number(o, "ranks", (double)s->ranks);
    cJSON_AddStringToObject(o, "host", s->host);
    json_add_number(o, "moved", s->moved);
    json_add_number(o, "interval", fmax(summary_pause, s->interval));
    return o;
}

/* Frees the object. */
static struct error put_object(FILE *to, cJSON *object, const char *indent)
{
    char *text = cJSON_PrintUnformatted(object);
    cJSON_Delete(object);
    if (!text)
        return error_memory("summary.json");
    fprintf(to, "%s%s", indent, text);
    cJSON_free(text);
    return ok();
}

/* Job by job, each on a line of its own, since there may be a hundred thousand. */
static struct error put_summary(FILE *to, const struct results *r)
{
    cJSON *object = head_json(r);
    char *text = cJSON_Print(object);
    cJSON_Delete(object);
    if (!text)
        return error_memory("summary.json");
    fprintf(to, "%.*s,\n\t\"jobs\":\t[", (int)strlen(text) - 2, text);
    cJSON_free(text);
    for (int64_t i = 0; i < r->jobs->count; i++)
        TRY(put_object(to, job_json(r, &r->jobs->items[i]), i == 0 ? "\n\t\t" : ",\n\t\t"));
    fputs("]\n}\n", to);
    return ok();
}

static struct error write_summary(const struct results *r)
{
    char path[PATH_SIZE];
    struct whole_file file;
    TRY(path_join(path, r->jobs->folder, "summary.json"));
    TRY(whole_file_begin(&file, path));
    struct error e = put_summary(file.stream, r);
    return error_first(e,
                       (r->ended && !r->reason ? whole_file_end : whole_file_end_lightly)(&file, e.code == ERROR_NONE));
}

/* -------------------------------------------------------------------------------- both */

/* Writes one of the two, and notes when it is due again. */
static struct error write_one(struct results *r, struct due *due, double pause,
                              struct error (*write)(const struct results *))
{
    double began = clock_seconds(), before = due->took;
    due->news = false;
    r->left = r->ended ? NAN : schedule_left(r->jobs, r->groups);
    struct error e = write(r);
    due->last = clock_seconds();
    due->took = due->last - began;
    // one that was interrupted for long says nothing of the next
    due->next = due->last + fmax(pause, dear * (before > 0 ? fmin(before, due->took) : due->took));
    return e;
}

static bool is_due(const struct due *due)
{
    double now = clock_seconds();
    return now >= due->next || (due->news && now - due->last >= dear * due->took);
}

static void write_if_due(struct results *r, struct due *due, double pause,
                         struct error (*write)(const struct results *))
{
    if (!is_due(due))
        return;
    struct error e = write_one(r, due, pause, write);
    if (e.code != ERROR_NONE && !due->failed)
        log_warning("%s", e.text);
    due->failed = e.code != ERROR_NONE;
}

void results_note(struct results *r)
{
    r->summary.news = r->page.news = true;
}

bool results_due(const struct results *r)
{
    return is_due(&r->summary) || is_due(&r->page);
}

void results_refresh(struct results *r)
{
    if (is_due(&r->summary))
        read_external(r);
    write_if_due(r, &r->summary, summary_pause, write_summary);
    write_if_due(r, &r->page, page_pause, queue_page_write);
}

/* If several runs end at the same time, the last to write knows the outcome of all. */
struct error results_write(struct results *r)
{
    do {
        read_external(r);
        TRY(write_one(r, &r->summary, summary_pause, write_summary));
        TRY(write_one(r, &r->page, page_pause, queue_page_write));
    } while (read_external(r));
    return ok();
}
