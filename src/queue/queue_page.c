#include "queue/queue_page.h"

#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/memory.h"
#include "files/file.h"
#include "report/subjects_page.h"

/* The text that a row points to. */
struct row_texts {
    char where[32];
};

static bool has_file(const struct job *job, const char *name)
{
    char path[PATH_SIZE];
    return job->folder && path_join(path, job->folder, name).code == ERROR_NONE && file_exists(path);
}

static const char *known(const char *text)
{
    return text[0] ? text : NULL;
}

/* Where to read on: the report of a job that is done, the log of one that runs or has failed. */
static const char *link_of(const struct job *job)
{
    switch (job->status.state) {
    case JOB_DONE:
        return "report.html";
    case JOB_RUNNING:
    case JOB_FAILED:
        return has_file(job, "log.txt") ? "log.txt" : NULL;
    default:
        return NULL;
    }
}

/* The losses of a job that has made no step are nobody's. */
static double loss_of(const struct job_status *s, double loss)
{
    return s->step > 0 ? loss : NAN;
}

static struct subject_row row_of(const struct results *r, const struct job *job, struct row_texts *t)
{
    const struct job_status *s = &job->status;
    bool running = s->state == JOB_RUNNING;
    snprintf(t->where, sizeof t->where, "group %lld", (long long)s->group);
    return (struct subject_row){
        .name = job->name,
        .state = job_state_name(s->state),
        .reason = s->state == JOB_FAILED ? s->error.text : NULL,
        .ended = known(s->ended),
        .phase = known(s->phase),
        .where = running && r->groups > 1 ? t->where : NULL,
        .link = link_of(job),
        .thumbnail = s->state == JOB_DONE && has_file(job, "thumbnail.jpg"),
        .step = (double)s->step,
        .steps = (double)(running && s->last > 0 ? s->last : job->steps),
        .left = running && s->left >= 0 ? s->left : NAN,
        .first = loss_of(s, s->validation_first),
        .best = running && s->best_step == 0 ? NAN : loss_of(s, s->validation_best), // it may not have looked yet
        .best_step = (double)s->best_step,
        .seconds = running          ? clock_date() - s->since
                   : s->seconds > 0 ? s->seconds
                                    : NAN,
        .turnaround = results_turnaround(r, job),
    };
}

/* Will it change? Runs of other jobs of the file may go on when this one has ended. */
static bool is_running(const struct results *r)
{
    bool others = false;
    for (int64_t i = 0; i < r->jobs->count; i++)
        others |= r->jobs->items[i].external && r->jobs->items[i].status.state < JOB_DONE;
    return others || !r->ended;
}

struct error queue_page_write(const struct results *r)
{
    const struct jobs *jobs = r->jobs;
    char path[PATH_SIZE];
    TRY(path_join(path, jobs->folder, "index.html"));
    struct subject_row *rows = memory_alloc(jobs->count, sizeof *rows);
    struct row_texts *texts = memory_alloc(jobs->count, sizeof *texts);
    struct error e = rows && texts ? ok() : error_memory("the page");
    for (int64_t i = 0; i < jobs->count && e.code == ERROR_NONE; i++)
        rows[i] = row_of(r, &jobs->items[i], &texts[i]);
    const struct subjects_page page = {
        .name = *path_name(jobs->folder) ? path_name(jobs->folder) : jobs->folder,
        .running = is_running(r),
        .written = clock_date(),
        .seconds = clock_seconds() - r->began,
        .left = r->left,
        .ranks = r->ranks,
        .groups = r->groups,
        .rows = rows,
        .count = jobs->count,
    };
    if (e.code == ERROR_NONE)
        e = subjects_page_write(path, &page);
    memory_free(rows);
    memory_free(texts);
    return e;
}
