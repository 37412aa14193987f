#include "queue/overview.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "base/text.h"
#include "files/file.h"
#include "queue/jobs.h"
#include "queue/overview_spool.h"
#include "report/gain.h"
#include "report/metrics.h"

enum { SUMMARY_LIMIT = 1 << 28, MANY = 1000 };

static const double fresh = 15; /* seconds for which a summary of many jobs is believed about those that wait */

const char *overview_kind_name(enum overview_kind kind)
{
    static const char *const names[] = {
        [OVERVIEW_RUN] = "run", [OVERVIEW_QUEUE] = "queue", [OVERVIEW_ARRAY] = "jobs", [OVERVIEW_SPOOL] = "spool"};
    return names[kind];
}

struct error overview_add(struct overview *o, struct seen_job *job)
{
    struct seen_job *more = memory_grow(o->jobs, o->count, &o->room, sizeof *more);
    if (!more) {
        seen_job_free(job);
        return error_memory("the jobs");
    }
    o->jobs = more;
    o->jobs[o->count++] = *job;
    return ok();
}

void overview_free(struct overview *o)
{
    for (int64_t i = 0; i < o->count; i++)
        seen_job_free(&o->jobs[i]);
    memory_free(o->jobs);
    memory_free(o->results);
    memory_free(o->warning);
    if (o->kind != OVERVIEW_RUN) // whose texts are the job's
        seen_job_free(&o->all);
    *o = (struct overview){0};
}

/* -------------------------------------------------------------------------------- one job's folder */

/* Of what an earlier version left. */
static bool read_metrics(struct seen_job *job, const char *folder)
{
    struct metric_table lines;
    char path[PATH_SIZE];
    struct stat status;
    if (path_join(path, folder, "metrics.jsonl").code != ERROR_NONE || !file_exists(path) ||
        metrics_read(&lines, folder).code != ERROR_NONE)
        return false;
    const struct gain gain = gain_of(&lines);
    job->step = lines.count > 0 ? lines.steps[lines.count - 1] : 0;
    job->loss = metric_table_loss(&lines);
    job->validation_first = gain.start;
    job->validation_best = gain.best;
    job->best_step = gain.best_step;
    metric_table_free(&lines);
    if (stat(path, &status) == 0)
        job->written = (double)status.st_mtime;
    job->state =
        path_join(path, folder, "report.html").code == ERROR_NONE && file_exists(path) ? SEEN_DONE : SEEN_UNKNOWN;
    return true;
}

/* A run's own folder; the one job that it adds is none if it holds nothing of a run. */
static struct error read_run(struct overview *o, const char *folder)
{
    struct seen_job job;
    const char *name = *path_name(folder) ? path_name(folder) : folder;
    o->kind = OVERVIEW_RUN;
    if (seen_job_look(&job, folder, name))
        return overview_add(o, &job);
    job = seen_job_unknown(name);
    if (read_metrics(&job, folder))
        return overview_add(o, &job);
    seen_job_free(&job);
    return ok();
}

/* -------------------------------------------------------------------------------- a queue's folder */

static struct error add_items(struct overview *o, struct json_piece list, bool *whole)
{
    struct json_pieces pieces;
    struct json_piece key, item;
    *whole = json_pieces_open(&pieces, list) && !pieces.object;
    while (*whole && json_pieces_next(&pieces, &key, &item)) {
        struct seen_job job = seen_job_unknown(NULL);
        if (seen_job_parse(&job, SEEN_RESULT, item))
            TRY(overview_add(o, &job));
        else
            seen_job_free(&job);
    }
    *whole = *whole && json_pieces_whole(&pieces);
    return ok();
}

static void take_groups(struct overview *o, struct json_piece value)
{
    cJSON *groups = cJSON_ParseWithLength(value.text, (size_t)value.size);
    if (cJSON_IsNumber(groups) && groups->valuedouble >= 1 && groups->valuedouble <= 1e6)
        o->groups = (int64_t)groups->valuedouble;
    cJSON_Delete(groups);
}

static struct error parse_summary(struct overview *o, const char *path, struct json_piece text)
{
    struct json_pieces pieces;
    struct json_piece key, value;
    bool listed = false, whole = json_pieces_open(&pieces, text) && pieces.object;
    while (whole && json_pieces_next(&pieces, &key, &value)) {
        if (json_piece_is(key, "jobs") && !listed) {
            TRY(add_items(o, value, &listed));
            whole = listed;
        } else if (json_piece_is(key, "groups")) {
            take_groups(o, value);
        } else if (json_piece_is(key, "array")) {
            o->kind = json_piece_is(value, "true") ? OVERVIEW_ARRAY : o->kind;
        } else {
            seen_job_take(&o->all, SEEN_STATUS, key, value);
        }
    }
    return listed && whole && json_pieces_whole(&pieces)
               ? ok()
               : error_input("%s: is no queue's summary, {\"jobs\": [{...}, ...], ...}", path);
}

/* Is what a job's own folder says, judged by now, newer than the summary? A summary that was written when another job of
 * an array ended may call one waiting that runs. */
static bool is_fresher(const struct overview *o, const struct seen_job *listed, const struct seen_job *own)
{
    bool runs = own->state == SEEN_RUNNING;
    return own->written > o->all.written || isnan(o->all.written) ||
           (runs && (listed->state == SEEN_RUNNING || (!own->gone && !own->silent)));
}

/* Takes what the folder of a listed job says, if that is newer. */
static void look_at_job(struct overview *o, const char *folder, struct seen_job *listed, double now)
{
    char path[PATH_SIZE];
    struct seen_job own;
    bool waits = listed->state == SEEN_WAITING, ended = !waits && listed->state != SEEN_RUNNING;
    bool again = o->kind == OVERVIEW_ARRAY && listed->state != SEEN_DONE; // its task may be queued again
    if ((ended && !again) || !listed->name || job_name_check(listed->name).code != ERROR_NONE ||
        (waits && o->count > MANY && now - o->all.written < fresh) ||
        path_join(path, folder, listed->name).code != ERROR_NONE || !seen_job_look(&own, path, listed->name))
        return;
    struct seen_job judged = own; // the list is judged as a whole later
    seen_judge(&judged, now);
    if (!is_fresher(o, listed, &judged)) {
        seen_job_free(&own);
        return;
    }
    own.group = listed->group;
    seen_job_free(listed);
    *listed = own;
}

static struct error read_summary(struct overview *o, const char *path)
{
    char *text;
    int64_t size;
    TRY(file_read(path, SUMMARY_LIMIT, &text, &size));
    struct error e = parse_summary(o, path, (struct json_piece){text, size});
    memory_free(text);
    return e;
}

/* The folders of jobs in a folder whose summary is missing, or worth nothing. */
static struct error read_array(struct overview *o, const char *folder)
{
    char path[PATH_SIZE], **names;
    int64_t count;
    TRY(folder_list(folder, &names, &count));
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++) {
        struct seen_job job;
        if (names[i][0] != '.' && path_join(path, folder, names[i]).code == ERROR_NONE && folder_exists(path) &&
            seen_job_look(&job, path, names[i]))
            e = overview_add(o, &job);
    }
    folder_list_free(names, count);
    return e;
}

/* Nothing of a summary that cannot be read is believed. */
static struct error do_without_summary(struct overview *o, const char *folder, struct error why)
{
    char text[600];
    for (int64_t i = 0; i < o->count; i++)
        seen_job_free(&o->jobs[i]);
    seen_job_free(&o->all);
    o->all = seen_job_unknown(NULL);
    o->count = 0;
    o->groups = -1;
    snprintf(text, sizeof text, "%s; these are the jobs that have a folder", why.text);
    text_show_safely(text);
    o->warning = memory_string(text);
    return read_array(o, folder);
}

/* false: there is no summary. */
static struct error read_queue(struct overview *o, const char *folder, double now, bool *found)
{
    char path[PATH_SIZE];
    struct stat status;
    TRY(path_join(path, folder, "summary.json"));
    *found = file_exists(path);
    if (!*found)
        return ok();
    struct error e = read_summary(o, path);
    if (e.code != ERROR_NONE)
        return do_without_summary(o, folder, e);
    if (isnan(o->all.written) && stat(path, &status) == 0)
        o->all.written = (double)status.st_mtime;
    for (int64_t i = 0; i < o->count; i++) {
        if (isnan(o->jobs[i].written))
            o->jobs[i].written = o->all.written;
        look_at_job(o, folder, &o->jobs[i], now);
    }
    return ok();
}

/* -------------------------------------------------------------------------------- the whole */

static int64_t state_of_all(const struct overview *o)
{
    static const int64_t order[] = {SEEN_RUNNING, SEEN_GONE,      SEEN_STOPPED, SEEN_WAITING,
                                    SEEN_FAILED,  SEEN_CANCELLED, SEEN_DONE};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (o->counts[order[i]] > 0)
            return order[i] == SEEN_GONE ? SEEN_RUNNING : order[i];
    return SEEN_UNKNOWN;
}

/* Goes on without a doubt. */
static bool is_live(const struct seen_job *job)
{
    return job->state == SEEN_RUNNING && !job->gone && !job->silent;
}

/* All tasks that run, as one: who wrote the summary last, and what it knew, is of no interest. */
static void judge_array(struct overview *o)
{
    struct seen_job *all = &o->all;
    int64_t ranks = 0, pending = 0;
    double left = 0, began = NAN, last = NAN;
    o->tasks = 0;
    for (int64_t i = 0; i < o->count; i++) {
        const struct seen_job *job = &o->jobs[i];
        last = fmax(last, job->since);
        pending += !is_live(job) && !seen_ended(job);
        if (!is_live(job))
            continue;
        o->tasks++;
        ranks += job->ranks > 0 ? job->ranks : 0;
        left = job->seconds_left >= left || isnan(job->seconds_left) ? job->seconds_left : left;
        began = fmin(began, job->began);
    }
    all->state = o->tasks > 0 ? SEEN_RUNNING : o->counts[SEEN_WAITING] > 0 ? SEEN_WAITING : state_of_all(o);
    all->gone = all->state == SEEN_RUNNING && o->tasks == 0 && o->counts[SEEN_RUNNING] == 0;
    all->silent = all->state == SEEN_RUNNING && o->tasks == 0 && !all->gone;
    all->seconds_left = o->tasks > 0 && pending == 0 ? left : NAN;
    all->seconds = last >= all->submitted ? last - all->submitted : NAN;
    all->ranks = ranks > 0 ? ranks : -1;
    all->began = began;
    all->since = last;
    all->pid = o->groups = -1;
    memory_free(all->host);
    all->host = NULL;
}

/* Jobs are judged by what they say themselves, or, if that is nothing, by who runs them. */
static void judge_all(struct overview *o, double now)
{
    bool alive = false;
    seen_judge(&o->all, now);
    for (int64_t i = 0; i < o->count; i++) {
        struct seen_job *job = &o->jobs[i];
        seen_judge(job, now);
        if (job->state == SEEN_RUNNING && job->pid < 0 && o->all.gone && o->kind != OVERVIEW_ARRAY)
            job->gone = true;
        if (job->state < SEEN_STATES)
            o->counts[seen_shown(job)]++;
        alive |= is_live(job);
        o->all.moved = fmax(o->all.moved, job->moved);
    }
    if (alive || o->all.state == SEEN_UNKNOWN) // other tasks of an array may go on after the one that wrote last
        o->all.state = alive ? SEEN_RUNNING : state_of_all(o);
    if (alive)
        o->all.gone = false;
    if (o->all.silent || o->all.gone || o->counts[SEEN_GONE] > 0)
        o->all.seconds_left = NAN; // what is left has nobody who does it
    o->all.silent &= !alive && o->counts[SEEN_RUNNING] > 0;
    if (o->kind == OVERVIEW_ARRAY)
        judge_array(o);
}

/* The newest of those that have ended first, the others as they are listed. */
static int compare_jobs(const void *a, const void *b)
{
    const struct seen_job *x = a, *y = b;
    if (seen_shown(x) != seen_shown(y))
        return seen_shown(x) < seen_shown(y) ? -1 : 1;
    double left = isnan(x->since) ? 0 : x->since, right = isnan(y->since) ? 0 : y->since;
    bool ended = x->state != SEEN_RUNNING && x->state != SEEN_WAITING;
    if (ended && left != right)
        return left > right ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static void sort_jobs(struct overview *o)
{
    for (int64_t i = 0; i < o->count; i++)
        o->jobs[i].place = i;
    if (o->count > 1)
        qsort(o->jobs, (size_t)o->count, sizeof *o->jobs, compare_jobs);
}

/* A spool whose process has ended was stopped, if its results say that all have. */
static struct error read_spool(struct overview *o, const char *folder, double now)
{
    char results[PATH_SIZE];
    struct seen_job spool = seen_job_unknown(NULL);
    bool found;
    o->kind = OVERVIEW_SPOOL;
    struct error e = overview_spool_open(&spool, results, folder);
    if (e.code == ERROR_NONE)
        e = read_queue(o, results, now, &found);
    o->kind = OVERVIEW_SPOOL;
    o->results = e.code == ERROR_NONE ? memory_string(results) : NULL;
    if (e.code == ERROR_NONE)
        e = overview_spool_add(o, folder, results);
    if (e.code == ERROR_NONE && spool.pid > 0) {
        spool.state = SEEN_RUNNING;
        seen_judge(&spool, now);
        bool ended = o->all.state == SEEN_STOPPED || o->all.state == SEEN_FAILED;
        if (!ended || (o->all.written <= spool.began && !spool.gone)) // what an earlier start left says nothing
            o->all.state = spool.gone && o->all.state != SEEN_RUNNING ? SEEN_STOPPED : SEEN_RUNNING;
        o->all.pid = spool.pid;
        o->all.began = spool.began;
        memory_free(o->all.host);
        o->all.host = spool.host;
        spool.host = NULL;
    }
    seen_job_free(&spool);
    return e;
}

static struct error read_kind(struct overview *o, const char *folder, double now)
{
    bool found;
    if (overview_is_spool(folder))
        return read_spool(o, folder, now);
    o->results = memory_string(folder);
    o->kind = OVERVIEW_QUEUE;
    TRY(read_queue(o, folder, now, &found));
    if (!found)
        TRY(read_run(o, folder));
    if (!found && o->count == 0) {
        o->kind = OVERVIEW_ARRAY;
        TRY(read_array(o, folder));
        found = o->count > 0;
    }
    return found || o->count > 0
               ? ok()
               : error_input(
                     "%s: is no folder of a run (status.json), of a queue (summary.json) or of an array's jobs, "
                     "and no spool; expected the output.dir of one, or the folder of run --spool",
                     folder);
}

struct error overview_read(struct overview *o, const char *folder, double now)
{
    enum path_kind kind;
    *o = (struct overview){.all = seen_job_unknown(NULL), .groups = -1, .tasks = -1};
    TRY(path_look(folder, &kind));
    if (kind != PATH_FOLDER)
        return error_input("%s: %s, expected the folder of a run, of a queue or of a spool", folder,
                           kind == PATH_FILE ? "is a file" : "does not exist");
    TRY(read_kind(o, folder, now));
    if (o->kind == OVERVIEW_RUN)
        o->all = o->jobs[0];
    judge_all(o, now);
    if (o->kind == OVERVIEW_RUN)
        o->all = o->jobs[0];
    sort_jobs(o);
    return ok();
}

bool overview_ended(const struct overview *o)
{
    int64_t ended = o->counts[SEEN_DONE] + o->counts[SEEN_FAILED] + o->counts[SEEN_CANCELLED];
    if (o->kind == OVERVIEW_ARRAY)
        return ended == o->count;
    return o->all.gone || (o->all.state != SEEN_RUNNING && o->all.state != SEEN_WAITING);
}
