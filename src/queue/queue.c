#include "queue/queue.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "cluster/signals.h"
#include "pipeline/derivative.h"
#include "queue/assignment.h"
#include "queue/handout.h"
#include "queue/job_folders.h"
#include "queue/jobs_plan.h"
#include "queue/queue_pipeline.h"
#include "queue/roster.h"
#include "queue/schedule.h"
#include "queue/work.h"

static const double idle_pause = 0.5; /* seconds between two looks for the first job */

struct queue {
    struct queue_parts parts;
    struct queue_pipeline serving;
    struct jobs jobs;     /* the list is rank 0's */
    struct roster roster; /* rank 0's */
    struct handout *handout;
    struct work *work; /* what this rank works on; NULL: nothing */
    bool ticking;      /* in a tick: what it does may show progress, of which the next tick would come */
};

static bool is_root(const struct queue *q)
{
    return comm_rank(q->parts.comm) == 0;
}

static bool is_spool(const struct queue *q)
{
    return q->jobs.source.kind == JOBS_SPOOL;
}

/* -------------------------------------------------------------------------------- rank 0, while it may be at work */

/* What is said about other jobs is not for the log of the job that this rank works on. */
static void leave_log(struct queue *q)
{
    if (q->work)
        job_log_leave(&q->work->log);
}

static void return_to_log(struct queue *q)
{
    if (q->work)
        job_log_return(&q->work->log);
}

static void look(struct queue *q)
{
    leave_log(q);
    roster_look(&q->roster);
    return_to_log(q);
}

/* A group reports how far its job is. */
static void on_report(void *arg, const struct job_status *status)
{
    struct queue *q = arg;
    leave_log(q);
    roster_take_report(&q->roster, status);
    return_to_log(q);
}

static int64_t take_next(void *arg, int group, char **text)
{
    struct queue *q = arg;
    leave_log(q);
    int64_t next = roster_take(&q->roster, group, text);
    return_to_log(q);
    return next;
}

/* -------------------------------------------------------------------------------- running jobs */

static const struct job_status no_job = {.job = -1};

static void tick_group(void *arg)
{
    struct queue *q = arg;
    if (q->ticking)
        return;
    q->ticking = true;
    if (q->work)
        work_look(q->work);
    if (is_root(q))
        look(q);
    handout_report(q->handout, q->work ? &q->work->status : &no_job);
    q->ticking = false;
}

static void tick_all(void *arg)
{
    struct queue *q = arg;
    if (q->ticking)
        return;
    q->ticking = true;
    handout_poll(q->handout);
    q->ticking = false;
}

/* A fatal error also goes to the original stderr, not only to the job's log; and whoever watches is told, by those of
 * rank 0 and the job's leader that notice it themselves. */
static void tell_abort(void *arg, const char *text)
{
    struct queue *q = arg;
    if (q->work && q->work->job.name)
        job_log_fatal(&q->work->log, &q->work->job, comm_rank(q->parts.comm), text);
    leave_log(q);
    if (is_root(q))
        roster_abort(&q->roster, text);
    if (q->work)
        work_abort(q->work, text);
}

/* The group works on one job. *last: its outcome. */
static void run_job(struct queue *q, int64_t index, const char *assignment, struct job_status *last)
{
    struct work work = {.jobs = &q->jobs, .pipeline = &q->serving.pipeline, .tick = tick_group, .arg = q};
    work.status = job_status_unknown(index);
    work.status.group = handout_group_of(comm_rank(q->parts.comm), comm_size(q->parts.comm), q->serving.groups);
    q->work = &work;
    work_run(&work, assignment);
    *last = work.status;
    q->work = NULL;
    work_free(&work);
}

static struct error hand_out(struct queue *q)
{
    const struct handout_parts parts = {
        .all = q->parts.comm,
        .group = q->serving.pipeline.comm,
        .groups = q->serving.groups,
        .timeout = q->serving.config.cluster.timeout,
        .next = take_next,
        .report = on_report,
        .arg = q,
    };
    struct job_status last = no_job;
    TRY(comm_agree(q->parts.comm, handout_new(&q->handout, &parts)));
    q->roster.handout = q->handout;
    comm_listen(q->serving.pipeline.comm, (struct comm_listener){tick_group, tell_abort, q});
    comm_listen(q->parts.comm, (struct comm_listener){tick_all, tell_abort, q});
    for (int64_t next = HANDOUT_LATER; next != HANDOUT_OVER;) {
        char *text;
        struct error e = handout_next(q->handout, &last, &next, &text);
        last = no_job;
        if (e.code == ERROR_NONE && next >= 0)
            run_job(q, next, text, &last);
        memory_free(text);
        TRY(e);
    }
    return handout_end(q->handout);
}

static struct error run_jobs(struct queue *q)
{
    struct pipeline *p = &q->serving.pipeline;
    bool was_muted = progress_set_muted(true); // the display has the terminal; a job's phases are in its log
    struct error e = hand_out(q);
    progress_set_muted(was_muted);
    comm_listen(p->comm, (struct comm_listener){0});
    comm_listen(q->parts.comm, (struct comm_listener){0});
    handout_free(q->handout);
    q->handout = q->roster.handout = NULL;
    return e;
}

/* -------------------------------------------------------------------------------- preparing */

/* The pipeline for a job, which is only rank 0's to choose. */
static struct error open_pipeline(struct queue *q, int64_t index)
{
    struct comm *all = q->parts.comm;
    struct job job = {0};
    char *text = NULL;
    struct error e = comm_agree(all, is_root(q) ? assignment_write(&q->jobs.items[index], &text) : ok());
    int64_t size = text ? (int64_t)strlen(text) : 0;
    if (e.code == ERROR_NONE)
        e = comm_share_text(all, &text, &size);
    if (e.code == ERROR_NONE)
        e = comm_agree(all, assignment_read(&job, &q->jobs, text, -1));
    if (e.code == ERROR_NONE)
        e = queue_pipeline_open(&q->serving, &job.config, all, q->parts.devices);
    job_free(&job);
    memory_free(text);
    return e;
}

static void close_pipeline(struct queue *q)
{
    queue_pipeline_close(&q->serving);
    q->roster.pipeline = NULL;
}

static struct error divide(struct queue *q)
{
    int groups = (int)q->parts.groups, ranks = comm_size(q->parts.comm);
    if (is_root(q) && groups == 0)
        groups = schedule_groups(&q->jobs, ranks, derivative_expected(&q->serving.config, &q->serving.pipeline));
    TRY(comm_broadcast(q->parts.comm, &groups, sizeof groups, 0));
    return queue_pipeline_divide(&q->serving, groups);
}

static struct error open_roster(struct queue *q, int64_t first)
{
    return roster_open(&q->roster, &q->jobs.items[first], comm_size(q->parts.comm), q->serving.groups);
}

/* Everything that can be checked without a job's photos is checked before the first step. `first`: the job to open the
 * pipeline for, as rank 0 has chosen it. */
static struct error prepare(struct queue *q, int64_t first)
{
    TRY(open_pipeline(q, first));
    q->roster.pipeline = &q->serving.pipeline;
    if (!is_spool(q))
        TRY(jobs_plan(&q->jobs, &q->serving.pipeline));
    TRY(divide(q));
    TRY(comm_agree(q->parts.comm, is_root(q) ? open_roster(q, first) : ok()));
    comm_listen(q->parts.comm, (struct comm_listener){.abort = tell_abort, .arg = q}); // while the model is loaded
    bool left = is_root(q) && jobs_first_pending(&q->jobs);
    TRY(comm_broadcast(q->parts.comm, &left, sizeof left, 0));
    return left ? queue_pipeline_load(&q->serving) : ok();
}

/* What all ranks will do: rank 0's choice. A spool is waited for. *stop: some rank was asked to stop. */
static struct error wait_for_job(struct queue *q, int64_t *first, bool *stop)
{
    struct comm *all = q->parts.comm;
    *first = HANDOUT_LATER;
    while (*first == HANDOUT_LATER) {
        *stop = signals_stop_requested();
        if (is_root(q))
            *first = roster_choose(&q->roster);
        TRY(comm_wait_all(all, 1));
        TRY(comm_meet(all, q->roster.lost, stop));
        TRY(comm_broadcast(all, first, sizeof *first, 0));
        if (*stop)
            return ok();
        if (is_root(q) && *first == HANDOUT_LATER)
            clock_sleep(idle_pause);
    }
    return ok();
}

/* Opens and loads the model for the first job that lets it. In a spool those before it fail, in a file, whose jobs need
 * the same model, that is an error. Not loaded, without an error: nothing is to be learned. */
static struct error load_model(struct queue *q)
{
    while (!q->serving.loaded) {
        int64_t first;
        bool stop;
        TRY(wait_for_job(q, &first, &stop));
        if (stop || first == HANDOUT_OVER)
            return ok();
        struct error e = comm_agree(q->parts.comm, prepare(q, first));
        if (e.code != ERROR_NONE)
            comm_listen(q->parts.comm, (struct comm_listener){0});
        if (e.code != ERROR_NONE && !is_spool(q))
            return e;
        if (e.code != ERROR_NONE && !q->serving.loaded)
            close_pipeline(q); // the next job may ask for another model
        if (e.code != ERROR_NONE && is_root(q))
            roster_fail(&q->roster, &q->jobs.items[first], e);
    }
    return ok();
}

/* -------------------------------------------------------------------------------- a queue */

struct error queue_new(struct queue **queue, const struct queue_parts *parts)
{
    struct queue *q = *queue = memory_alloc(1, sizeof *q);
    if (q)
        q->parts = *parts;
    return comm_agree(parts->comm, q ? ok() : error_memory("the queue"));
}

static struct error run(struct queue *q)
{
    TRY(load_model(q));
    if (is_root(q))
        roster_show_ended(&q->roster);
    if (q->serving.loaded)
        TRY(run_jobs(q));
    comm_listen(q->parts.comm, (struct comm_listener){0});
    return comm_agree(q->parts.comm, is_root(q) ? roster_finish(&q->roster) : ok());
}

/* Rank 0. */
static struct error begin_list(struct queue *q, enum start start)
{
    q->roster.shared = q->parts.only != NULL;
    if (q->parts.only)
        TRY(jobs_select(&q->jobs, q->parts.only));
    return roster_begin(&q->roster, &q->jobs, start);
}

struct error queue_run_file(struct queue *q, const struct jobs_source *source, const char *text, int64_t size,
                            enum start start)
{
    TRY(comm_agree(q->parts.comm, is_root(q) ? jobs_read(&q->jobs, source, text, size) : ok()));
    TRY(jobs_share(&q->jobs, source, q->parts.comm));
    struct error e = comm_agree(q->parts.comm, is_root(q) ? begin_list(q, start) : ok());
    if (e.code == ERROR_NONE)
        e = run(q);
    if (is_root(q) && e.code == ERROR_BAD_INPUT)
        job_folders_withdraw(&q->jobs);
    return e;
}

struct error queue_run_spool(struct queue *q, struct jobs *jobs, const struct jobs_source *source,
                             const struct queue_supply *supply)
{
    q->jobs = *jobs;
    *jobs = (struct jobs){0};
    TRY(jobs_share(&q->jobs, source, q->parts.comm));
    TRY(comm_agree(q->parts.comm, is_root(q) ? roster_begin_spool(&q->roster, &q->jobs, supply) : ok()));
    TRY(run(q));
    TRY(comm_agree(q->parts.comm, q->roster.lost));
    return error_preempted("stopped by a signal; start again to continue");
}

void queue_judge(struct queue *q, struct job *job)
{
    roster_judge(&q->roster, job);
}

void queue_cancel(struct queue *q, struct job *job)
{
    roster_cancel(&q->roster, job);
}

struct jobs *queue_jobs(struct queue *q)
{
    return &q->jobs;
}

void queue_free(struct queue *q)
{
    if (!q)
        return;
    roster_free(&q->roster);
    jobs_free(&q->jobs);
    queue_pipeline_close(&q->serving);
    memory_free(q);
}
