#include "queue/spool.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "cluster/signals.h"
#include "files/file.h"
#include "files/held.h"
#include "files/json.h"
#include "queue/inbox.h"

static const double scan_pause = 0.5;                  /* seconds between two scans of an idle folder */
static const double first_wait = 1, longest_wait = 60; /* seconds until jobs that found a full disk are tried again */

enum { BATCH_JOBS = 1000, BATCH_BYTES = 32 << 20, PROBE_BYTES = 64 << 10 };

struct spool {
    struct queue *queue;
    struct comm *comm;
    const struct text_list *sets;
    const char *folder;
    const char *defaults_path; /* or NULL */

    /* rank 0 */
    struct inbox inbox;
    cJSON *defaults;
    char *results;     /* output.dir */
    bool results_here; /* that is the spool's folder itself */
    double wait;       /* seconds, after jobs found a full disk; 0: none did */
    double wait_until; /* by clock_seconds */
    bool waiting;      /* shown by `progress` */
    struct progress progress;
};

/* -------------------------------------------------------------------------------- rank 0 */

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
static struct error read_defaults(struct spool *s)
{
    const char *path = s->defaults_path;
    char out[PATH_SIZE];
    struct config config;
    if (path)
        TRY(json_read(&s->defaults, path, path));
    else
        s->defaults = cJSON_CreateObject();
    TRY(path_join(out, s->folder, "out"));
    if (!job_sets_folder(s->defaults) && !cJSON_AddStringToObject(s->defaults, "output.dir", out))
        return error_memory("the defaults");
    const struct config_layer layer = {s->defaults, path ? path : s->folder};
    TRY(config_partial(&config, &layer, 1, s->sets));
    // a folder that is not given, as null, is missed when a job is read
    struct error e = config.output.dir ? check_results(s, &config) : ok();
    config_free(&config);
    return e;
}

static struct error open_spool(struct spool *s)
{
    TRY(inbox_open(&s->inbox, s->folder));
    return read_defaults(s);
}

/* The jobs that are collected for one run of the queue. */
struct batch {
    cJSON *list;
    int64_t count, bytes; /* of the files */
};

static bool is_full(const struct batch *batch)
{
    return batch->count >= BATCH_JOBS || batch->bytes >= BATCH_BYTES;
}

static struct error check_name(const struct spool *s, const char *name)
{
    TRY(job_name_check(name));
    if (s->results_here && inbox_has_part(name))
        return error_input("name: \"%s\" is that of one of the spool's folders, and results go beside them", name);
    return ok();
}

/* Checks the keys by themselves, so that a bad file cannot make the whole batch's text unreadable. */
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
static struct error read_config(struct spool *s, struct batch *batch, const char *name, cJSON **config, double *date)
{
    char *text, source[PATH_SIZE]; // as the user named it, wherever it is now
    int64_t size;
    TRY(check_name(s, name));
    TRY(inbox_read(&s->inbox, name, &text, &size, date));
    if (!text)
        return ok();
    snprintf(source, sizeof source, "%s/%s.json", s->folder, name);
    batch->bytes += size;
    struct error e = parse_config(config, text, size, source);
    memory_free(text);
    return e;
}

/* The file of this name in running/ becomes one more of the batch's jobs, or is rejected. */
static struct error add_job(struct spool *s, struct batch *batch, const char *name, bool resume)
{
    cJSON *config = NULL;
    double submitted = 0;
    struct error e = read_config(s, batch, name, &config, &submitted);
    if (e.code == ERROR_BAD_INPUT) {
        log_error("%s: failed, %s", name, e.text);
        return inbox_end(&s->inbox, name, e.text);
    }
    if (e.code != ERROR_NONE || !config)
        return e;
    cJSON *job = cJSON_CreateObject();
    cJSON_AddStringToObject(job, "name", name);
    cJSON_AddBoolToObject(job, "resume", resume);
    cJSON_AddNumberToObject(job, "submitted", submitted);
    if (!cJSON_AddItemToObject(job, "config", config) || !cJSON_AddItemToArray(batch->list, job))
        return error_memory("a job");
    batch->count++;
    return ok();
}

/* The queue's own file, if it is written here. */
static bool is_ours(const struct spool *s, const char *name)
{
    return s->results_here && strcmp(name, "summary") == 0;
}

/* Has it been read in running/, from where it has vanished since? */
static bool is_in_batch(const struct batch *batch, const char *name)
{
    for (const cJSON *job = batch->list->child; job; job = job->next)
        if (strcmp(cJSON_GetObjectItemCaseSensitive(job, "name")->valuestring, name) == 0)
            return true;
    return false;
}

/* Jobs of running/ were interrupted, or found a full disk; the others are moved there first. */
static struct error add_jobs(struct spool *s, struct batch *batch, bool waiting)
{
    char **names;
    int64_t count;
    struct error e = ok();
    inbox_list(&s->inbox, waiting, &names, &count);
    for (int64_t i = 0; i < count && e.code == ERROR_NONE && !is_full(batch); i++)
        if (!waiting || (!is_ours(s, names[i]) && !is_in_batch(batch, names[i]) && inbox_take(&s->inbox, names[i])))
            e = add_job(s, batch, names[i], !waiting);
    folder_list_free(names, count);
    return e;
}

/* The batch as a text for jobs_read. */
static struct error print_batch(const struct spool *s, cJSON *root, char **text)
{
    cJSON *defaults = cJSON_Duplicate(s->defaults, true);
    if (!defaults || !cJSON_AddItemToObject(root, "defaults", defaults))
        return error_memory("the jobs");
    char *printed = cJSON_PrintUnformatted(root);
    *text = printed ? memory_string(printed) : NULL;
    cJSON_free(printed);
    return *text ? ok() : error_memory("the jobs");
}

/* The jobs at hand; *text stays NULL if there are none. */
static struct error collect_jobs(struct spool *s, char **text)
{
    cJSON *root = cJSON_CreateObject();
    struct batch batch = {.list = cJSON_AddArrayToObject(root, "jobs")};
    struct error e = batch.list ? add_jobs(s, &batch, false) : error_memory("the jobs");
    if (e.code == ERROR_NONE)
        e = add_jobs(s, &batch, true);
    if (e.code == ERROR_NONE && batch.count > 0)
        e = print_batch(s, root, text);
    cJSON_Delete(root);
    return e;
}

static void end_waiting(struct spool *s)
{
    if (s->waiting)
        progress_end(&s->progress);
    s->waiting = false;
}

/* Is it time to try jobs again that found a full disk? */
static bool has_room(struct spool *s)
{
    struct held results;
    if (s->wait == 0)
        return true;
    if (clock_seconds() < s->wait_until)
        return false;
    bool opened = held_open(&results, s->results).code == ERROR_NONE;
    bool room = held_has_room(opened ? &results : &s->inbox.root, PROBE_BYTES);
    if (opened)
        held_close(&results);
    if (room) {
        end_waiting(s);
        log_line("there is room on the disk again");
    }
    return room;
}

/* e: of a job that found a full disk. */
static void wait_for_room(struct spool *s, struct error e)
{
    if (s->wait == 0)
        log_warning("%s; the spool waits until there is room", e.text);
    s->wait = s->wait == 0 ? first_wait : fmin(longest_wait, 2 * s->wait);
    s->wait_until = clock_seconds() + s->wait;
    progress_phase(&s->progress, "waiting for room on the disk", 0, "");
    s->waiting = true;
}

/* Jobs that found a full disk stay in running/, as those that were interrupted do. */
static struct error move_all_ended(struct spool *s, const struct jobs *jobs)
{
    struct error full = ok();
    for (int64_t i = 0; i < jobs->count; i++) {
        const struct job *job = &jobs->items[i];
        bool failed = job->status.state == JOB_FAILED;
        if (failed && error_is_full_disk(job->status.error))
            full = job->status.error;
        else if (failed || job->status.state == JOB_DONE)
            TRY(inbox_end(&s->inbox, job->name, failed ? job->status.error.text : NULL));
    }
    if (full.code != ERROR_NONE)
        wait_for_room(s, full);
    else
        s->wait = 0;
    return ok();
}

/* -------------------------------------------------------------------------------- all ranks */

/* *text: rank 0's; the others get theirs. */
static struct error run_batch(struct spool *s, char **text)
{
    int64_t size = *text ? (int64_t)strlen(*text) : 0;
    TRY(comm_share_text(s->comm, text, &size));
    const struct jobs_source source = {JOBS_SPOOL, s->folder, s->defaults_path,
                                       s->results_here ? &s->inbox.claim : NULL};
    TRY(queue_run(s->queue, &source, *text, size, s->sets, START_NEW));
    struct error e = comm_agree(s->comm, comm_rank(s->comm) == 0 ? move_all_ended(s, queue_jobs(s->queue)) : ok());
    queue_clear(s->queue);
    return e;
}

/* Rank 0: what there is to do. */
static struct error look(struct spool *s, char **text)
{
    TRY(inbox_begin_scan(&s->inbox));
    return has_room(s) ? collect_jobs(s, text) : ok();
}

/* Scans the folder once and runs the jobs it finds. *stop: some rank was asked to stop. */
static struct error scan(struct spool *s, bool *stop)
{
    *stop = signals_stop_requested();
    char *text = NULL;
    bool first = comm_rank(s->comm) == 0;
    struct error e = first && !*stop ? look(s, &text) : ok();
    TRY(comm_wait_all(s->comm, 1));
    e = comm_meet(s->comm, e, stop);
    bool work = text != NULL;
    if (e.code == ERROR_NONE)
        e = comm_broadcast(s->comm, &work, sizeof work, 0);
    if (e.code == ERROR_NONE && work)
        e = run_batch(s, &text);
    else if (first && e.code == ERROR_NONE && !*stop)
        clock_sleep(scan_pause);
    memory_free(text);
    return e;
}

struct error spool_run(struct queue *q, struct comm *comm, const char *folder, const char *defaults,
                       const struct text_list *sets)
{
    struct spool s = {.queue = q, .comm = comm, .sets = sets, .folder = folder, .defaults_path = defaults};
    bool first = comm_rank(comm) == 0, stop = false;
    s.inbox.root.descriptor = -1;
    struct error e = comm_agree(comm, first ? open_spool(&s) : ok());
    if (first && e.code == ERROR_NONE)
        log_line("watching %s for NAME.json", folder);
    while (e.code == ERROR_NONE && !stop)
        e = scan(&s, &stop);
    end_waiting(&s);
    inbox_close(&s.inbox);
    cJSON_Delete(s.defaults);
    memory_free(s.results);
    return e.code == ERROR_NONE ? error_preempted("stopped by a signal; start again to continue") : e;
}
