#include "queue/spool.h"

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
#include "files/held.h"
#include "files/json.h"
#include "files/on_end.h"
#include "queue/inbox.h"

static const double first_wait = 1, longest_wait = 60; /* seconds until jobs that found a full disk are tried again */

enum { WAITING_JOBS = 1000, WAITING_BYTES = 32 << 20, PROBE_BYTES = 64 << 10 };

/* Rank 0's. */
struct spool {
    struct queue *queue;
    const char *folder;
    const struct text_list *sets;
    struct inbox inbox;
    char *results;     /* output.dir */
    bool results_here; /* that is the spool's folder itself */
    bool full;         /* a job found no room on the disk, and none has begun since */
    double wait;       /* seconds, before it is tried again */
    double wait_until; /* by clock_seconds */
};

/* -------------------------------------------------------------------------------- opening */

static struct error check_results(struct spool *s, const struct config *config)
{
    const char *part = inbox_part(&s->inbox, config->output.dir);
    if (part && strcmp(part, ".") != 0)
        return config_blame(config, "output.dir",
                            error_input("%s: is the spool's own folder %s/, expected another one, such as %s/out",
                                        config->output.dir, part, s->folder));
    s->results_here = part != NULL;
    s->results = memory_string(config->output.dir);
    return s->results ? ok() : error_memory("the defaults");
}

/* Checks them and --set now, while someone is watching, rather than when the first job arrives. */
static struct error read_defaults(struct spool *s, const char *path, cJSON **defaults)
{
    char out[PATH_SIZE];
    struct config config;
    if (path)
        TRY(json_read(defaults, path, path));
    else
        *defaults = cJSON_CreateObject();
    TRY(path_join(out, s->folder, "out"));
    if (!job_sets_folder(*defaults) && !cJSON_AddStringToObject(*defaults, "output.dir", out))
        return error_memory("the defaults");
    const struct config_layer layer = {*defaults, path ? path : s->folder};
    TRY(config_partial(&config, &layer, 1, s->sets));
    struct error e = config_blame(&config, "output.on_end", on_end_check(config.output.on_end));
    if (e.code == ERROR_NONE && config.output.dir) // one that is not given, as null, is missed when a job is read
        e = check_results(s, &config);
    config_free(&config);
    return e;
}

/* Tells others who watch the spool where its results are. */
static void announce(struct spool *s)
{
    char host[HOST_TEXT] = "";
    cJSON *o = cJSON_CreateObject();
    gethostname(host, sizeof host - 1);
    cJSON_AddStringToObject(o, "results", s->results ? s->results : "");
    cJSON_AddNumberToObject(o, "pid", getpid());
    cJSON_AddStringToObject(o, "host", host);
    cJSON_AddNumberToObject(o, "began", clock_date());
    char *text = cJSON_Print(o);
    struct error e = text ? held_write(&s->inbox.root, ".zoodip-spool.json", text) : error_memory("the spool");
    if (e.code != ERROR_NONE)
        log_warning("%s; zoodip status will not find the results", e.text);
    cJSON_free(text);
    cJSON_Delete(o);
}

static struct error open_spool(struct spool *s, const struct jobs_source *source, struct jobs *jobs)
{
    cJSON *defaults = NULL;
    TRY(inbox_open(&s->inbox, s->folder));
    struct error e = read_defaults(s, source->defaults, &defaults);
    if (e.code != ERROR_NONE) {
        cJSON_Delete(defaults);
        return e;
    }
    TRY(jobs_begin(jobs, source, defaults));
    announce(s);
    log_line("watching %s for NAME.json", s->folder);
    return ok();
}

/* -------------------------------------------------------------------------------- files that arrive */

static struct error check_name(const struct spool *s, const char *name)
{
    TRY(job_name_check(name));
    if (s->results_here && inbox_has_part(name))
        return error_input("name: \"%s\" is that of one of the spool's folders, and results go beside them", name);
    return ok();
}

/* Checks the keys by themselves, so that an error in them names the file alone. */
static struct error parse_config(cJSON **config, const char *text, int64_t size, const char *source)
{
    TRY(json_parse(config, source, text, size));
    const struct config_layer layer = {*config, source};
    struct error e = config_check(&layer, 1, &(struct text_list){0});
    if (e.code != ERROR_NONE)
        cJSON_Delete(*config);
    return e;
}

/* *config stays NULL if there is nothing to do. */
static struct error read_config(struct spool *s, const char *name, cJSON **config, double *date)
{
    char *text, source[PATH_SIZE]; // as the user named it, wherever it is now
    int64_t size;
    TRY(check_name(s, name));
    TRY(inbox_read(&s->inbox, name, &text, &size, date));
    if (!text)
        return ok();
    snprintf(source, sizeof source, "%s/%s.json", s->folder, name);
    struct error e = parse_config(config, text, size, source);
    memory_free(text);
    return e;
}

/* The file of this name in running/ becomes one more job, or is rejected. */
static struct error add_job(struct spool *s, const char *name, bool resume)
{
    cJSON *config = NULL;
    double submitted = 0;
    struct job *job;
    struct error e = read_config(s, name, &config, &submitted);
    if (e.code == ERROR_BAD_INPUT) {
        log_error("%s: failed, %s", name, e.text);
        return inbox_end(&s->inbox, name, e.text);
    }
    if (e.code != ERROR_NONE || !config)
        return e;
    e = jobs_add(queue_jobs(s->queue), name, config, resume ? START_RESUME : START_NEW, submitted, &job);
    cJSON_Delete(config);
    TRY(e);
    queue_judge(s->queue, job);
    return ok();
}

/* The queue's own file, if it is written here. */
static bool is_ours(const struct spool *s, const char *name)
{
    return s->results_here && strcmp(name, "summary") == 0;
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The place of a name, or -1. */
static int64_t place_of(char **sorted, int64_t count, const char *name)
{
    char **at = count > 0 ? bsearch(&name, sorted, (size_t)count, sizeof *sorted, compare_texts) : NULL;
    return at ? at - sorted : -1;
}

/* Is there a job of this name that has not ended? One that was cancelled may still be at its last step. */
static bool is_pending(const struct jobs *jobs, const char *name)
{
    for (int64_t i = 0; i < jobs->count; i++)
        if (job_is_pending(&jobs->items[i]) && strcmp(jobs->items[i].name, name) == 0)
            return true;
    return false;
}

/* names [count] are in running/. A job whose file is not there any more is cancelled; known [count]: the names that are
 * jobs already. */
static void compare_running(struct spool *s, char **names, int64_t count, bool *known)
{
    struct jobs *jobs = queue_jobs(s->queue);
    if (count > 1)
        qsort(names, (size_t)count, sizeof *names, compare_texts);
    for (int64_t i = 0; i < jobs->count; i++) {
        struct job *job = &jobs->items[i];
        int64_t place = place_of(names, count, job->name);
        if (!job_is_pending(job))
            continue;
        if (place >= 0)
            known[place] = true;
        else
            queue_cancel(s->queue, job);
    }
}

/* Files in running/ that are no jobs yet were interrupted in an earlier run. */
static struct error look_at_running(struct spool *s)
{
    char **names;
    int64_t count;
    if (!inbox_list(&s->inbox, false, &names, &count))
        return ok();
    bool *known = memory_alloc(count, sizeof *known);
    struct error e = known ? ok() : error_memory("the spool");
    if (known)
        compare_running(s, names, count, known);
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++)
        if (!known[i])
            e = add_job(s, names[i], true);
    memory_free(known);
    folder_list_free(names, count);
    return e;
}

/* Jobs that wait are kept in memory, with their keys; others may wait in the folder. */
static bool has_place(const struct jobs *jobs)
{
    int64_t count = 0, bytes = 0;
    for (int64_t i = 0; i < jobs->count; i++) {
        const struct job *job = &jobs->items[i];
        if (job->status.state != JOB_WAITING)
            continue;
        count++;
        bytes += (int64_t)strlen(job->keys);
    }
    return count < WAITING_JOBS && bytes < WAITING_BYTES;
}

/* Files that have arrived. */
static struct error look_at_new(struct spool *s)
{
    char **names;
    int64_t count;
    struct error e = ok();
    const struct jobs *jobs = queue_jobs(s->queue);
    if (!has_place(jobs) || !inbox_list(&s->inbox, true, &names, &count))
        return ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE && has_place(jobs); i++)
        if (!is_ours(s, names[i]) && !is_pending(jobs, names[i]) && inbox_take(&s->inbox, names[i]))
            e = add_job(s, names[i], false);
    folder_list_free(names, count);
    return e;
}

/* -------------------------------------------------------------------------------- a full disk */

/* Is it time to try jobs again that found a full disk? */
static bool has_room(struct spool *s)
{
    struct held results;
    if (!s->full)
        return true;
    if (clock_seconds() < s->wait_until)
        return false;
    bool opened = held_open(&results, s->results).code == ERROR_NONE;
    s->full = !held_has_room(opened ? &results : &s->inbox.root, PROBE_BYTES);
    if (opened)
        held_close(&results);
    if (!s->full)
        log_line("there is room on the disk again");
    return !s->full;
}

/* e: of a job that found a full disk. */
static void wait_for_room(struct spool *s, struct error e)
{
    if (s->wait == 0)
        log_warning("%s; the spool waits until there is room", e.text);
    s->wait = s->wait == 0 ? first_wait : fmin(longest_wait, 2 * s->wait);
    s->wait_until = clock_seconds() + s->wait;
    s->full = true;
}

/* -------------------------------------------------------------------------------- for the queue */

static struct error look(void *arg)
{
    struct spool *s = arg;
    TRY(inbox_begin_scan(&s->inbox));
    TRY(look_at_running(s));
    return has_room(s) ? look_at_new(s) : ok();
}

static bool pauses(void *arg)
{
    const struct spool *s = arg;
    return s->full;
}

/* A job that found a full disk stays in running/, as one that was interrupted does. */
static void end_job(void *arg, struct job *job)
{
    struct spool *s = arg;
    bool failed = job->status.state == JOB_FAILED;
    struct error e = job->status.error;
    if (failed && job->cancelled)
        job->status.state = JOB_CANCELLED; // its file is not there to be moved
    else if (failed && error_is_full_disk(e)) {
        job->status.state = JOB_WAITING;
        job->status.error = ok();
        job->status.finished = 0;
        job->start = START_RESUME;
        wait_for_room(s, e);
        return;
    }
    if (job->status.state == JOB_DONE)
        s->wait = 0;
    if (job->status.state == JOB_CANCELLED)
        return;
    e = inbox_end(&s->inbox, job->name, failed ? e.text : NULL);
    if (e.code != ERROR_NONE)
        log_warning("%s", e.text);
}

struct error spool_run(struct queue *q, struct comm *comm, const char *folder, const char *defaults,
                       const struct text_list *sets)
{
    struct spool s = {.queue = q, .folder = folder, .sets = sets};
    const struct jobs_source source = {JOBS_SPOOL, folder, defaults, sets};
    struct jobs jobs = {0};
    s.inbox.root.descriptor = -1;
    struct error e = comm_agree(comm, comm_rank(comm) == 0 ? open_spool(&s, &source, &jobs) : ok());
    struct queue_supply supply = {
        .look = look, .pauses = pauses, .ended = end_job, .claim = s.results_here ? &s.inbox.claim : NULL, .arg = &s};
    if (e.code == ERROR_NONE)
        e = queue_run_spool(q, &jobs, &source, &supply);
    jobs_free(&jobs);
    inbox_close(&s.inbox);
    memory_free(s.results);
    return e;
}
