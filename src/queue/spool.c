#include "queue/spool.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/clock.h"
#include "cluster/signals.h"
#include "files/file.h"
#include "files/json.h"

static const double look_pause = 0.5; /* seconds between two looks into an idle folder */

struct spool {
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
    if (!folder_exists(s->folder))
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
static struct error read_defaults(struct spool *s, const char *path, const struct text_list *sets)
{
    char out[PATH_SIZE];
    if (path)
        TRY(json_read(&s->defaults, path, path));
    else
        s->defaults = cJSON_CreateObject();
    TRY(path_join(out, s->folder, "out"));
    if (!jobs_name_folder(s->defaults) && !cJSON_AddStringToObject(s->defaults, "output.dir", out))
        return error_memory("the defaults");
    const struct config_layer layer = {s->defaults, path ? path : s->folder};
    return config_check(&layer, 1, sets);
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
static struct error settle(const struct spool *s, const char *name, const struct job_note *note)
{
    char file[PATH_SIZE], reason[PATH_SIZE], text[600];
    snprintf(file, sizeof file, "%s.json", name);
    if (note->state == JOB_DONE)
        return move(s->running, s->done, file);
    if (note->state != JOB_FAILED)
        return ok(); // it stays, to be continued
    snprintf(file, sizeof file, "%s.txt", name);
    TRY(path_join(reason, s->failed, file));
    TRY(folder_make(s->failed));
    snprintf(text, sizeof text, "%s\n", note->error.text);
    TRY(file_write_whole(reason, text, (int64_t)strlen(text)));
    snprintf(file, sizeof file, "%s.json", name);
    return move(s->running, s->failed, file);
}

static struct error reject(const struct spool *s, const char *name, struct error e)
{
    const struct job_note note = {.state = JOB_FAILED, .error = e};
    log_error("%s: failed, %s", name, e.text);
    return settle(s, name, &note);
}

/* Is there something of that name that is not a folder? Folders stay where they are: a file could not take their place
 * later. */
static bool lies_in(const char *folder, const char *file)
{
    char path[PATH_SIZE];
    struct stat status;
    return path_join(path, folder, file).code == ERROR_NONE && lstat(path, &status) == 0 && !S_ISDIR(status.st_mode);
}

/* Checks the keys by themselves, so that a bad file cannot make the whole batch's text unreadable. */
static struct error read_config(cJSON **config, const char *path, const char *source)
{
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
    char name[PATH_SIZE], path[PATH_SIZE],
        source[PATH_SIZE]; // source: as the user named it, wherever it lies meanwhile
    struct stat status;
    cJSON *config = NULL;
    if (!job_name(name, file) || !lies_in(s->running, file))
        return ok();
    TRY(path_join(path, s->running, file));
    TRY(path_join(source, s->folder, file));
    struct error e = job_name_check(name);
    if (e.code == ERROR_NONE && (lstat(path, &status) != 0 || !S_ISREG(status.st_mode)))
        e = error_input("%s: is not a regular file", path);
    if (e.code == ERROR_NONE)
        e = read_config(&config, path, source);
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
        if (!job_name(name, names[i]) || !lies_in(s->folder, names[i]) || lies_in(s->running, names[i]))
            continue;
        e = move(s->folder, s->running, names[i]);
        if (e.code == ERROR_NONE)
            e = add_job(s, list, names[i], false);
    }
    folder_list_free(names, count);
    return e;
}

/* The jobs at hand, as a text for jobs_read; *text stays NULL if there are none. */
static struct error take_jobs(const struct spool *s, char **text)
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

static struct error settle_all(const struct spool *s, const struct jobs *jobs)
{
    struct error e = ok();
    for (int64_t i = 0; i < jobs->count && e.code == ERROR_NONE; i++)
        e = settle(s, jobs->items[i].name, &jobs->items[i].note);
    return e;
}

/* -------------------------------------------------------------------------------- all ranks */

/* *text: rank 0's; the others get theirs. */
static struct error run_batch(struct queue *b, const struct spool *s, char **text, const struct text_list *sets)
{
    int64_t size = *text ? (int64_t)strlen(*text) : 0;
    TRY(comm_share_text(b->all, text, &size));
    const struct jobs_source source = {JOBS_SPOOL, s->folder, s->defaults_path};
    TRY(queue_run(b, &source, *text, size, sets, false));
    struct error e = comm_agree(b->all, comm_rank(b->all) == 0 ? settle_all(s, &b->jobs) : ok());
    queue_clear(b);
    return e;
}

/* Looks into the folder once and does what it finds. *stop: some rank was asked to stop. */
static struct error look(struct queue *b, const struct spool *s, const struct text_list *sets, bool *stop)
{
    *stop = signals_stop_requested();
    char *text = NULL;
    bool first = comm_rank(b->all) == 0;
    struct error e = ok();
    if (first && !*stop)
        e = take_jobs(s, &text);
    TRY(comm_wait_all(b->all, 1));
    e = comm_meet(b->all, e, stop);
    bool work = text != NULL;
    if (e.code == ERROR_NONE)
        e = comm_broadcast(b->all, &work, sizeof work, 0);
    if (e.code == ERROR_NONE && work)
        e = run_batch(b, s, &text, sets);
    else if (first && e.code == ERROR_NONE && !*stop)
        clock_sleep(look_pause);
    memory_free(text);
    return e;
}

struct error spool_run(struct queue *b, const char *folder, const char *defaults, const struct text_list *sets)
{
    struct spool s = {.folder = folder, .defaults_path = defaults};
    struct error e = ok();
    bool first = comm_rank(b->all) == 0, stop = false;
    if (first)
        e = open_folders(&s);
    if (first && e.code == ERROR_NONE)
        e = read_defaults(&s, defaults, sets);
    e = comm_agree(b->all, e);
    if (first && e.code == ERROR_NONE)
        log_line("watching %s for NAME.json", folder);
    while (e.code == ERROR_NONE && !stop)
        e = look(b, &s, sets, &stop);
    claim_release(&s.claim);
    cJSON_Delete(s.defaults);
    if (e.code == ERROR_NONE)
        e = (struct error){ERROR_PREEMPTED, "stopped by a signal; start again to continue"};
    return e;
}
