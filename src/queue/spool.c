#include "queue/spool.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "cluster/signals.h"
#include "files/claim.h"
#include "files/file.h"
#include "files/json.h"

static const double scan_pause = 0.5; /* seconds between two scans of an idle folder */

struct spool {
    struct queue *queue;
    struct comm *comm;
    const struct text_list *sets;
    const char *folder;
    const char *defaults_path; /* or NULL */
    char running[PATH_SIZE], done[PATH_SIZE], failed[PATH_SIZE];
    cJSON *defaults; /* rank 0 */
    struct claim claim;
};

/* -------------------------------------------------------------------------------- rank 0 */

static struct error open_folders(struct spool *s)
{
    const struct {
        char *path;
        const char *name;
    } folders[] = {{s->running, "running"}, {s->done, "done"}, {s->failed, "failed"}};
    enum path_kind kind;
    TRY(error_in(path_look(s->folder, &kind), "--spool"));
    if (kind != PATH_FOLDER)
        return error_input("--spool: %s: no such folder", s->folder);
    TRY(claim_folder(&s->claim, s->folder, 1));
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        TRY(path_join(folders[i].path, s->folder, folders[i].name));
        TRY(folder_within(s->folder, folders[i].path));
        TRY(folder_make(folders[i].path));
    }
    return ok();
}

/* Checks them and --set now, while someone is watching, rather than when the first job arrives. */
static struct error read_defaults(struct spool *s)
{
    const char *path = s->defaults_path;
    char out[PATH_SIZE];
    if (path)
        TRY(json_read(&s->defaults, path, path));
    else
        s->defaults = cJSON_CreateObject();
    TRY(path_join(out, s->folder, "out"));
    if (!job_sets_folder(s->defaults) && !cJSON_AddStringToObject(s->defaults, "output.dir", out))
        return error_memory("the defaults");
    const struct config_layer layer = {s->defaults, path ? path : s->folder};
    return config_check(&layer, 1, s->sets);
}

static struct error open_spool(struct spool *s)
{
    TRY(open_folders(s));
    return read_defaults(s);
}

/* NAME of NAME.json; false if the file is not for us. */
static bool job_name(char name[PATH_SIZE], const char *file)
{
    size_t length = strlen(file), ending = strlen(".json");
    if (*file == '.' || length <= ending || length >= PATH_SIZE || strcmp(file + length - ending, ".json") != 0)
        return false;
    snprintf(name, PATH_SIZE, "%.*s", (int)(length - ending), file);
    return true;
}

/* Moves a file. A file or folder that someone has removed in the meantime must not end the spool. */
static struct error move(const char *from_folder, const char *to_folder, const char *file)
{
    char from[PATH_SIZE], to[PATH_SIZE];
    struct stat status;
    TRY(path_join(from, from_folder, file));
    TRY(path_join(to, to_folder, file));
    TRY(folder_make(to_folder));
    if (rename(from, to) == 0)
        return ok();
    struct error e = error_errno("move", from);
    if (lstat(from, &status) == 0 || errno != ENOENT)
        return e;
    log_warning("%s: was removed by another program", from);
    return ok();
}

/* Moves running/NAME.json to where its outcome belongs. */
static struct error move_ended(const struct spool *s, const char *name, const struct job_status *status)
{
    char file[PATH_SIZE], reason[PATH_SIZE], text[600];
    snprintf(file, sizeof file, "%s.json", name);
    if (status->state == JOB_DONE)
        return move(s->running, s->done, file);
    if (status->state != JOB_FAILED)
        return ok(); // it stays, to be continued
    snprintf(file, sizeof file, "%s.txt", name);
    TRY(path_join(reason, s->failed, file));
    TRY(folder_make(s->failed));
    snprintf(text, sizeof text, "%s\n", status->error.text);
    TRY(file_write_whole(reason, text, (int64_t)strlen(text)));
    snprintf(file, sizeof file, "%s.json", name);
    return move(s->running, s->failed, file);
}

static struct error reject(const struct spool *s, const char *name, struct error e)
{
    const struct job_status status = {.state = JOB_FAILED, .error = e};
    log_error("%s: failed, %s", name, e.text);
    return move_ended(s, name, &status);
}

/* Whether there is something of that name that is not a folder. Folders stay where they are: a file could not replace
 * them later. */
static bool has_file(const char *folder, const char *file)
{
    char path[PATH_SIZE];
    struct stat status;
    return path_join(path, folder, file).code == ERROR_NONE && lstat(path, &status) == 0 && !S_ISDIR(status.st_mode);
}

/* Checks the keys by themselves, so that a bad file cannot make the whole batch's text unreadable. */
static struct error read_file(cJSON **config, struct stat *status, const char *name, const char *path,
                              const char *source)
{
    TRY(job_name_check(name));
    if (lstat(path, status) != 0 || !S_ISREG(status->st_mode))
        return error_input("%s: is not a regular file", path);
    TRY(json_read(config, path, source));
    const struct config_layer layer = {*config, source};
    struct error e = config_check(&layer, 1, &(struct text_list){0});
    if (e.code != ERROR_NONE)
        cJSON_Delete(*config);
    return e;
}

/* running/FILE becomes one more of the batch's jobs, or is rejected. */
static struct error add_job(const struct spool *s, cJSON *list, const char *file, bool resume)
{
    char name[PATH_SIZE], path[PATH_SIZE];
    char source[PATH_SIZE]; // as the user named it, wherever it is now
    struct stat status;
    cJSON *config = NULL;
    if (!job_name(name, file) || !has_file(s->running, file))
        return ok();
    TRY(path_join(path, s->running, file));
    TRY(path_join(source, s->folder, file));
    struct error e = read_file(&config, &status, name, path, source);
    if (e.code != ERROR_NONE)
        return reject(s, name, e);
    cJSON *job = cJSON_CreateObject();
    cJSON_AddStringToObject(job, "name", name);
    cJSON_AddBoolToObject(job, "resume", resume);
    cJSON_AddNumberToObject(job, "submitted", (double)status.st_mtime);
    if (cJSON_AddItemToObject(job, "config", config) && cJSON_AddItemToArray(list, job))
        return ok();
    return error_memory("a job");
}

static struct error add_running(const struct spool *s, cJSON *list)
{
    char **names;
    int64_t count;
    TRY(folder_list(s->running, &names, &count));
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++)
        e = add_job(s, list, names[i], true);
    folder_list_free(names, count);
    return e;
}

static struct error add_new(const struct spool *s, cJSON *list)
{
    char **names, name[PATH_SIZE];
    int64_t count;
    TRY(folder_list(s->folder, &names, &count));
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++) {
        // a new file would overwrite an unfinished one of that name, so it waits until that one is done
        if (!job_name(name, names[i]) || !has_file(s->folder, names[i]) || has_file(s->running, names[i]))
            continue;
        e = move(s->folder, s->running, names[i]);
        if (e.code == ERROR_NONE)
            e = add_job(s, list, names[i], false);
    }
    folder_list_free(names, count);
    return e;
}

/* The jobs at hand, as a text for jobs_read; *text stays NULL if there are none. */
static struct error collect_jobs(const struct spool *s, char **text)
{
    *text = NULL;
    cJSON *root = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(root, "jobs");
    cJSON *defaults = cJSON_Duplicate(s->defaults, true);
    struct error e =
        list && defaults && cJSON_AddItemToObject(root, "defaults", defaults) ? ok() : error_memory("the jobs");
    if (e.code == ERROR_NONE)
        e = add_running(s, list);
    if (e.code == ERROR_NONE)
        e = add_new(s, list);
    if (e.code == ERROR_NONE && cJSON_GetArraySize(list) > 0) {
        char *printed = cJSON_PrintUnformatted(root);
        *text = printed ? memory_string(printed) : NULL;
        cJSON_free(printed);
        if (!*text)
            e = error_memory("the jobs");
    }
    cJSON_Delete(root);
    return e;
}

static struct error move_all_ended(const struct spool *s, const struct jobs *jobs)
{
    struct error e = ok();
    for (int64_t i = 0; i < jobs->count && e.code == ERROR_NONE; i++)
        e = move_ended(s, jobs->items[i].name, &jobs->items[i].status);
    return e;
}

/* -------------------------------------------------------------------------------- all ranks */

/* *text: rank 0's; the others get theirs. */
static struct error run_batch(const struct spool *s, char **text)
{
    int64_t size = *text ? (int64_t)strlen(*text) : 0;
    TRY(comm_share_text(s->comm, text, &size));
    const struct jobs_source source = {JOBS_SPOOL, s->folder, s->defaults_path};
    TRY(queue_run(s->queue, &source, *text, size, s->sets, START_NEW));
    struct error e = comm_agree(s->comm, comm_rank(s->comm) == 0 ? move_all_ended(s, queue_jobs(s->queue)) : ok());
    queue_clear(s->queue);
    return e;
}

/* Scans the folder once and runs the jobs it finds. *stop: some rank was asked to stop. */
static struct error scan(const struct spool *s, bool *stop)
{
    *stop = signals_stop_requested();
    char *text = NULL;
    bool first = comm_rank(s->comm) == 0;
    struct error e = ok();
    if (first && !*stop)
        e = collect_jobs(s, &text);
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
    struct error e = comm_agree(comm, first ? open_spool(&s) : ok());
    if (first && e.code == ERROR_NONE)
        log_line("watching %s for NAME.json", folder);
    while (e.code == ERROR_NONE && !stop)
        e = scan(&s, &stop);
    claim_release(&s.claim);
    cJSON_Delete(s.defaults);
    if (e.code == ERROR_NONE)
        e = (struct error){ERROR_PREEMPTED, "stopped by a signal; start again to continue"};
    return e;
}
