#include "queue/overview_spool.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "base/text.h"
#include "files/file.h"
#include "files/json.h"

enum { REASON_LIMIT = 64 << 10 };

static const char note_name[] = ".zoodip-spool.json";

/* -------------------------------------------------------------------------------- the spool */

static bool has_part(const char *folder, const char *part)
{
    char path[PATH_SIZE];
    return path_join(path, folder, part).code == ERROR_NONE && folder_exists(path);
}

bool overview_is_spool(const char *folder)
{
    char note[PATH_SIZE];
    return (path_join(note, folder, note_name).code == ERROR_NONE && file_exists(note)) ||
           (has_part(folder, "running") && has_part(folder, "done") && has_part(folder, "failed"));
}

/* A spool of an earlier version says nothing: its results go to out/ if the defaults name no other folder. */
struct error overview_spool_open(struct seen_job *all, char results[PATH_SIZE], const char *folder)
{
    char note[PATH_SIZE];
    struct json json;
    TRY(path_join(note, folder, note_name));
    TRY(path_join(results, folder, "out"));
    if (!file_exists(note) || json_open(&json, note).code != ERROR_NONE)
        return ok();
    snprintf(results, PATH_SIZE, "%s", json_string(&json, "results", results));
    json_close(&json);
    seen_job_read(all, SEEN_STATUS, folder, note_name);
    return ok();
}

/* -------------------------------------------------------------------------------- its files */

/* The jobs that something is known of, sorted by name: their places, since the list moves when it grows. */
struct known_job {
    const char *name; /* the job's */
    int64_t place;
};

struct known {
    struct known_job *jobs; /* [count] */
    int64_t count;
};

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct known_job *)a)->name, ((const struct known_job *)b)->name);
}

static struct error sort_known(struct known *known, const struct overview *o)
{
    *known = (struct known){.jobs = memory_alloc(o->count, sizeof *known->jobs)};
    if (!known->jobs)
        return error_memory("the jobs");
    for (int64_t i = 0; i < o->count; i++)
        if (o->jobs[i].name)
            known->jobs[known->count++] = (struct known_job){o->jobs[i].name, i};
    qsort(known->jobs, (size_t)known->count, sizeof *known->jobs, compare_names);
    return ok();
}

static struct seen_job *find_known(const struct known *known, struct overview *o, const char *name)
{
    const struct known_job key = {.name = name};
    const struct known_job *found =
        name ? bsearch(&key, known->jobs, (size_t)known->count, sizeof *known->jobs, compare_names) : NULL;
    return found ? &o->jobs[found->place] : NULL;
}

/* The first line of failed/NAME.txt, or NULL. */
static char *read_reason(const char *folder, const char *name)
{
    char path[PATH_SIZE], *text;
    int64_t size;
    snprintf(path, sizeof path, "%s/failed/%s.txt", folder, name);
    if (!file_exists(path) || file_read(path, REASON_LIMIT, &text, &size).code != ERROR_NONE)
        return NULL;
    text[strcspn(text, "\n")] = 0;
    text_show_safely(text);
    return text;
}

/* When failed/NAME.txt was written; NAN if it is not there. */
static double refused_at(const char *folder, const char *name)
{
    char path[PATH_SIZE];
    struct stat status;
    snprintf(path, sizeof path, "%s/failed/%s.txt", folder, name);
    return stat(path, &status) == 0 ? (double)status.st_mtime + 1e-9 * (double)status.st_mtim.tv_nsec : NAN;
}

/* One of the spool's folders, and what its files say about jobs that nothing else is known of. */
struct part {
    const char *name; /* "": the spool's own folder */
    enum seen state;
};

struct visit {
    struct overview *o;
    struct known known;
    const char *folder, *results;
};

/* The name of a job whose name had been used, by one that is finished and stays. */
static struct seen_job unknown_again(const char *name)
{
    char again[PATH_SIZE];
    snprintf(again, sizeof again, "%s (again)", name);
    return seen_job_unknown(again);
}

/* Such a job, unless the results tell of it. Takes `reason` over. */
static struct error add_refused(struct visit *v, const char *name, char *reason, double when)
{
    struct seen_job job = unknown_again(name);
    if (find_known(&v->known, v->o, job.name)) {
        seen_job_free(&job);
        memory_free(reason);
        return ok();
    }
    job.state = SEEN_FAILED;
    job.reason = reason;
    job.since = when;
    return overview_add(v->o, &job);
}

/* A name that is in done/ and in failed/, and whose last word, known, is the failure: if its folder says that it is done,
 * then that is what it is, and a job of the same name was refused, before or since. */
static struct error see_finished(struct visit *v, struct seen_job *known, const char *name)
{
    char folder[PATH_SIZE];
    struct seen_job own;
    double when = refused_at(v->folder, name);
    if (path_join(folder, v->results, name).code != ERROR_NONE || !seen_job_look(&own, folder, name))
        return ok();
    if (own.state != SEEN_DONE) {
        seen_job_free(&own);
        return ok();
    }
    char *reason = known->reason;
    memory_free(own.name);
    own.name = known->name; // which the known names borrow
    known->name = known->reason = NULL;
    seen_job_free(known);
    *known = own;
    if (!(when <= own.since))
        return add_refused(v, name, reason, when);
    memory_free(reason);
    return ok();
}

/* A name that something is known of. */
static struct error see_known(struct visit *v, const struct part *part, struct seen_job *known, const char *name)
{
    if (!*part->name && known->state > SEEN_RUNNING)
        known->state = part->state; // it has been submitted again
    if (part->state == SEEN_DONE && known->state == SEEN_FAILED)
        return see_finished(v, known, name);
    if (part->state == SEEN_FAILED && known->state == SEEN_DONE && refused_at(v->folder, name) > known->since)
        return add_refused(v, name, read_reason(v->folder, name), refused_at(v->folder, name));
    return ok();
}

/* name: without ".json". */
static struct error see_file(struct visit *v, const struct part *part, const char *name)
{
    struct seen_job job = seen_job_unknown(name);
    struct seen_job *known = find_known(&v->known, v->o, job.name);
    if (known || !job.name || (!*part->name && strcmp(name, "summary") == 0 && path_same(v->folder, v->results))) {
        seen_job_free(&job);
        return known ? see_known(v, part, known, name) : ok();
    }
    char folder[PATH_SIZE];
    job.state = part->state;
    if (part->state != SEEN_FAILED && *part->name && path_join(folder, v->results, name).code == ERROR_NONE)
        seen_job_read(&job, SEEN_STATUS, folder, "status.json");
    if (part->state == SEEN_FAILED)
        job.reason = read_reason(v->folder, name);
    return overview_add(v->o, &job);
}

static struct error see_part(struct visit *v, const struct part *part)
{
    char path[PATH_SIZE], **names;
    int64_t count;
    TRY(path_join(path, v->folder, part->name));
    if (folder_list(path, &names, &count).code != ERROR_NONE)
        return ok();
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++)
        if (names[i][0] != '.' && text_ends_with(names[i], ".json")) {
            names[i][strlen(names[i]) - strlen(".json")] = 0;
            e = see_file(v, part, names[i]);
        }
    folder_list_free(names, count);
    return e;
}

/* Names that are listed as done and as failed: a spool's list keeps what is done, and only the last of what is not. */
static struct error name_refused(struct overview *o)
{
    struct known known;
    struct error e = sort_known(&known, o);
    for (int64_t from = 0, to; from < known.count; from = to) {
        bool done = false;
        for (to = from; to < known.count && strcmp(known.jobs[to].name, known.jobs[from].name) == 0; to++)
            done |= o->jobs[known.jobs[to].place].state == SEEN_DONE;
        for (int64_t i = from; i < to && done; i++) {
            struct seen_job *job = &o->jobs[known.jobs[i].place];
            if (job->state != SEEN_FAILED)
                continue;
            char *name = job->name;
            job->name = unknown_again(name).name;
            memory_free(name);
        }
    }
    memory_free(known.jobs);
    return e;
}

struct error overview_spool_add(struct overview *o, const char *folder, const char *results)
{
    static const struct part parts[] = {
        {"", SEEN_WAITING}, {"running", SEEN_WAITING}, {"failed", SEEN_FAILED}, {"done", SEEN_DONE}};
    struct visit v = {.o = o, .folder = folder, .results = results};
    struct error e = name_refused(o);
    for (size_t i = 0; i < sizeof parts / sizeof *parts && e.code == ERROR_NONE; i++) {
        e = sort_known(&v.known, o);
        if (e.code == ERROR_NONE)
            e = see_part(&v, &parts[i]);
        memory_free(v.known.jobs);
    }
    return e;
}
