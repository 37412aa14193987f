#include "queue/roster.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "cluster/signals.h"
#include "files/file.h"
#include "pipeline/learning.h"
#include "queue/assignment.h"
#include "queue/job_folders.h"
#include "queue/schedule.h"

static const double look_pause = 0.5; /* seconds between two looks at what is supplied */
static const double dear = 50;        /* and as many times what one takes */

enum { CHECKED_JOBS = 10000 };

static bool is_spool(const struct roster *r)
{
    return r->jobs->source.kind == JOBS_SPOOL;
}

/* -------------------------------------------------------------------------------- the folder */

/* Unless other runs share it. Somebody may have moved it away since the job before. */
static struct error claim_queue(struct roster *r, const struct config *c)
{
    const char *folder = r->jobs->folder;
    if (r->shared || r->supply.claim || (r->claim.held && claim_check(&r->claim, folder).code == ERROR_NONE))
        return ok();
    claim_release(&r->claim);
    TRY(claim_folder(&r->claim, folder, learning_claim_timeout(c)));
    folder_clean_unfinished(folder); // what cannot be removed does no harm
    return ok();
}

static struct error make_folder(struct roster *r, const struct job *job)
{
    TRY(config_blame(&job->config, "output.dir", folder_make(r->jobs->folder)));
    return claim_queue(r, &job->config);
}

/* Before the summary is written. */
static struct error check_folder(const struct roster *r)
{
    return claim_check(r->supply.claim ? r->supply.claim : &r->claim, r->jobs->folder);
}

static void refresh_results(struct roster *r)
{
    if (!r->shared && r->results.groups > 0 && results_due(&r->results) && check_folder(r).code == ERROR_NONE)
        results_refresh(&r->results);
}

/* -------------------------------------------------------------------------------- jobs that end */

/* A job's state has changed, or it is time to show it. */
static void show(struct roster *r, struct job *job)
{
    bool news = display_show(r->display, job), ended = news && job->status.state >= JOB_STOPPED;
    if (ended && !job_is_pending(job) && r->supply.ended)
        r->supply.ended(r->supply.arg, job);
    on_end_reap(&r->hooks);
    if (ended)
        results_note(&r->results);
    refresh_results(r);
}

void roster_take_report(struct roster *r, const struct job_status *status)
{
    struct job *job = &r->jobs->items[status->job];
    job->status = *status;
    if (job->first_step < 0 && status->step > 0)
        job->first_step = status->step - 1;
    if (job->cancelled && status->state == JOB_RUNNING)
        handout_cancel(r->handout, (int)status->group, status->job); // it may have been between two jobs before
    bool ended = job->shown.state != status->state && status->state >= JOB_STOPPED;
    show(r, job);
    if (ended && job->status.state == status->state) // else it waits for room on the disk
        on_end_start(&r->hooks, job->config.output.on_end, job->folder, job_state_name(job->status.state));
}

void roster_fail(struct roster *r, struct job *job, struct error e)
{
    job_fail(job, e);
    job_folder_fail(r->jobs, job);
    show(r, job);
}

void roster_show_ended(struct roster *r)
{
    for (int64_t i = 0; i < r->jobs->count; i++)
        if (!r->jobs->items[i].external && !job_is_pending(&r->jobs->items[i]))
            show(r, &r->jobs->items[i]);
}

/* What can be found out of a job before it begins. */
static struct error check_job(const struct roster *r, const struct job *job)
{
    TRY(pipeline_serves(r->pipeline, &job->config));
    return subject_check(r->pipeline, &job->config);
}

void roster_judge(struct roster *r, struct job *job)
{
    job_folder_judge(r->jobs, job);
    struct error e = r->pipeline && job_is_pending(job) ? check_job(r, job) : ok();
    if (e.code != ERROR_NONE)
        job_fail(job, e);
    if (job->status.state == JOB_FAILED)
        job_folder_fail(r->jobs, job);
    if (!job_is_pending(job))
        show(r, job);
}

void roster_cancel(struct roster *r, struct job *job)
{
    if (job->cancelled)
        return;
    job->cancelled = true;
    log_line("%s: cancelled, since its file was removed", job->name);
    if (job->status.state == JOB_RUNNING) {
        handout_cancel(r->handout, (int)job->status.group, job->status.job);
        return;
    }
    job->status.state = JOB_CANCELLED;
    job->status.since = job->status.finished = clock_date();
    job_folder_cancel(r->jobs, job);
    show(r, job);
}

/* -------------------------------------------------------------------------------- the next job */

void roster_look(struct roster *r)
{
    double now = clock_seconds();
    if (!r->supply.look || r->lost.code != ERROR_NONE || now < r->look_due)
        return;
    r->lost = r->supply.look(r->supply.arg);
    double after = clock_seconds();
    r->look_due = after + (look_pause > dear * (after - now) ? look_pause : dear * (after - now));
    if (r->lost.code != ERROR_NONE)
        signals_request_stop();
    refresh_results(r);
}

/* The one that waits longest, by the time of its file, or HANDOUT_LATER. */
static int64_t first_arrived(const struct roster *r)
{
    const struct job *first = NULL;
    if (r->supply.pauses(r->supply.arg))
        return HANDOUT_LATER;
    for (int64_t i = 0; i < r->jobs->count; i++) {
        const struct job *job = &r->jobs->items[i];
        if (job->status.state == JOB_WAITING &&
            (!first || job->submitted < first->submitted ||
             (job->submitted == first->submitted && strcmp(job->name, first->name) < 0)))
            first = job;
    }
    return first ? first - r->jobs->items : HANDOUT_LATER;
}

int64_t roster_choose(struct roster *r)
{
    roster_look(r);
    if (is_spool(r))
        return first_arrived(r);
    while (r->next < r->order_count && r->jobs->items[r->order[r->next]].status.state != JOB_WAITING)
        r->next++;
    return r->next < r->order_count ? r->order[r->next] : HANDOUT_OVER;
}

static struct error describe(struct roster *r, const struct job *job, char **text)
{
    TRY(pipeline_serves(r->pipeline, &job->config));
    TRY(make_folder(r, job));
    return assignment_write(job, text);
}

int64_t roster_take(struct roster *r, int group, char **text)
{
    for (int64_t i; (i = roster_choose(r)) >= 0;) {
        struct job *job = &r->jobs->items[i];
        struct error e = describe(r, job, text);
        if (e.code != ERROR_NONE) {
            roster_fail(r, job, e);
            continue;
        }
        job->begun = clock_date();
        job->first_step = job->start == START_RESUME ? -1 : 0; // a resumed one's first report tells
        job->announced = false;                                // from here on that is the group's
        job->status.state = JOB_RUNNING;
        job->status.group = group;
        return i;
    }
    return is_spool(r) ? HANDOUT_LATER : HANDOUT_OVER;
}

/* -------------------------------------------------------------------------------- the beginning */

/* What earlier runs left in the jobs' folders, decided before anything runs. */
static struct error judge_folders(struct roster *r)
{
    const struct job *first = jobs_first_pending(r->jobs);
    if (first)
        TRY(config_blame(&first->config, "output.on_end", on_end_check(first->config.output.on_end)));
    if (!first || !folder_exists(r->jobs->folder))
        return ok();
    TRY(claim_queue(r, &first->config));
    return job_folders_judge(r->jobs);
}

struct error roster_begin(struct roster *r, struct jobs *jobs, enum start start)
{
    r->jobs = jobs;
    for (int64_t i = 0; i < jobs->count; i++)
        jobs->items[i].start = start;
    TRY(judge_folders(r));
    r->order = memory_alloc(jobs->count, sizeof *r->order);
    if (!r->order)
        return error_memory("the queue");
    r->order_count = schedule_order(jobs, r->order);
    results_begin(&r->results, jobs, start == START_RESUME);
    for (int64_t i = 0; i < jobs->count; i++)
        if (!jobs->items[i].external && jobs->items[i].submitted <= 0)
            jobs->items[i].submitted = r->results.submitted;
    return display_open(&r->display, &r->results);
}

struct error roster_begin_spool(struct roster *r, struct jobs *jobs, const struct queue_supply *supply)
{
    r->jobs = jobs;
    r->supply = *supply;
    results_begin(&r->results, jobs, false);
    TRY(results_recall(&r->results));
    return display_open(&r->display, &r->results);
}

void roster_free(struct roster *r)
{
    claim_release(&r->claim);
    display_close(r->display);
    memory_free(r->order);
    memory_free(r->hook);
}

/* So that a mistyped path is known in the evening, not when its job begins. */
static void check_jobs(struct roster *r)
{
    struct progress progress;
    int64_t count = r->order_count < CHECKED_JOBS ? r->order_count : CHECKED_JOBS;
    progress_phase(&progress, "checking the jobs' words and photos", count, "");
    for (int64_t i = 0; i < count; i++) {
        struct job *job = &r->jobs->items[r->order[i]];
        struct error e = job_is_pending(job) ? check_job(r, job) : ok();
        if (e.code != ERROR_NONE)
            job_fail(job, e);
        progress_step(&progress, i + 1, "");
    }
    progress_end(&progress);
}

struct error roster_open(struct roster *r, const struct job *first, int ranks, int groups)
{
    const char *hook = first->config.output.on_end;
    memory_free(r->hook);
    r->hook = hook ? memory_string(hook) : NULL;
    TRY(hook && !r->hook ? error_memory("output.on_end") : ok());
    r->hook_wait = fmin(ON_END_SECONDS, first->config.cluster.timeout / 2);
    TRY(make_folder(r, first));
    check_jobs(r);
    job_folders_fail(r->jobs);
    r->results.ranks = ranks;
    r->results.groups = groups;
    results_refresh(&r->results); // so that the time of submission is known whatever happens
    return ok();
}

/* -------------------------------------------------------------------------------- the end */

/* A spool's jobs do not depend on whether the summary can be written. */
static struct error blame_summary(const struct roster *r, struct error e)
{
    if (e.code == ERROR_NONE || !is_spool(r))
        return e;
    log_warning("%s", e.text);
    return ok();
}

static struct error write_results(struct roster *r)
{
    struct progress progress;
    r->results.ended = true;
    progress_phase(&progress, "writing the results of all jobs", 0, "");
    struct error e = check_folder(r);
    if (e.code == ERROR_NONE)
        e = folder_make(r->jobs->folder); // no job may have needed it
    if (e.code == ERROR_NONE)
        e = results_write(&r->results);
    progress_end(&progress);
    return e;
}

void roster_abort(struct roster *r, const char *text)
{
    if (r->shared || r->results.groups == 0)
        return;
    on_end_start(&r->hooks, r->hook, r->jobs->folder, "failed"); // nobody is left to wait for it
    for (int64_t i = 0; i < r->jobs->count; i++) {
        struct job *job = &r->jobs->items[i];
        if (job->status.state == JOB_RUNNING)
            job->status.state = job->cancelled ? JOB_CANCELLED : JOB_STOPPED;
    }
    r->results.reason = text;
    r->results.ended = true;
    if (check_folder(r).code == ERROR_NONE)
        results_write(&r->results);
    r->results.reason = NULL;
}

/* The others wait meanwhile. */
static void tell_users(struct roster *r)
{
    if (r->hook && !r->shared)
        on_end_start(&r->hooks, r->hook, r->jobs->folder, results_state(&r->results));
    on_end_wait(&r->hooks, r->hook_wait);
    memory_free(r->hook);
    r->hook = NULL;
}

struct error roster_finish(struct roster *r)
{
    display_finish(r->display);
    bool opened = !is_spool(r) || r->results.groups > 0; // a spool without a job leaves what is there
    struct error e = opened ? write_results(r) : ok();
    display_summary(r->display, opened && e.code == ERROR_NONE);
    tell_users(r);
    return blame_summary(r, e);
}
