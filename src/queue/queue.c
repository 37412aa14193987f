#include "queue/queue.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "files/claim.h"
#include "files/file.h"
#include "pipeline/learning.h"
#include "queue/display.h"
#include "queue/handout.h"
#include "queue/job_folders.h"
#include "queue/job_log.h"
#include "queue/jobs_prepare.h"
#include "queue/queue_pipeline.h"
#include "queue/results.h"

struct queue {
    struct queue_parts parts;
    struct queue_pipeline serving; /* all batches */

    /* the current batch */
    struct jobs jobs;
    struct results results;   /* rank 0, as the next two */
    struct display *display;  /* NULL if there is none */
    struct claim claim;       /* of the queue's folder, unless other runs share it */
    const struct claim *lent; /* of that folder by the caller, instead; or NULL */
    struct handout *handout;

    /* the job that this rank works on */
    struct job *job;           /* NULL: none */
    struct learning *learning; /* its training */
    struct job_status status;  /* what the leader reports about it */
    struct job_log log;
};

static bool is_root(const struct queue *q)
{
    return comm_rank(q->parts.comm) == 0;
}

static bool is_leader(const struct queue *q)
{
    return comm_rank(q->serving.pipeline.comm) == 0;
}

/* -------------------------------------------------------------------------------- folders */

/* Sends the status of all jobs, as rank 0 knows it, to all ranks. */
static struct error share_status(struct queue *q)
{
    for (int64_t i = 0; i < q->jobs.count; i++)
        TRY(comm_broadcast(q->parts.comm, &q->jobs.items[i].status, sizeof q->jobs.items[i].status, 0));
    return ok();
}

/* Unless other runs share it. */
static struct error claim_queue(struct queue *q, const struct config *c)
{
    if (q->parts.only || q->lent || q->claim.held)
        return ok();
    TRY(claim_folder(&q->claim, q->jobs.folder, learning_claim_timeout(c)));
    folder_clean_unfinished(q->jobs.folder); // what cannot be removed does no harm
    return ok();
}

/* Before the summary is written. */
static struct error check_folder(const struct queue *q)
{
    return claim_check(q->lent ? q->lent : &q->claim, q->jobs.folder);
}

static struct error prepare_folders(struct queue *q)
{
    struct error e = ok();
    if (is_root(q))
        e = config_blame(&q->serving.config, "output.dir", folder_make(q->jobs.folder));
    if (is_root(q) && e.code == ERROR_NONE)
        e = claim_queue(q, &q->serving.config);
    TRY(comm_agree(q->parts.comm, e));
    if (is_root(q))
        job_folders_prepare(&q->jobs);
    return share_status(q);
}

/* A spool goes on whatever its jobs ask for: an error that concerns a whole batch, the same on all ranks, fails its
 * jobs. Of a file's jobs it is returned. */
static struct error blame_batch(struct queue *q, struct error e)
{
    if (q->jobs.kind == JOBS_FILE || e.code == ERROR_NONE)
        return e;
    for (struct job *job; (job = jobs_first_pending(&q->jobs));)
        job_fail(job, e);
    return ok();
}

/* What earlier runs left in the jobs' folders: decided before anything runs. */
static struct error judge_folders(struct queue *q, const char *source)
{
    struct error e = ok();
    const struct job *first = jobs_first_pending(&q->jobs);
    if (is_root(q) && first && folder_exists(q->jobs.folder)) {
        e = claim_queue(q, &first->config);
        if (e.code == ERROR_NONE)
            e = job_folders_judge(&q->jobs, source);
    }
    TRY(blame_batch(q, comm_agree(q->parts.comm, e)));
    return share_status(q);
}

/* -------------------------------------------------------------------------------- one job */

static void tick_group(void *arg)
{
    struct queue *q = arg;
    if (q->job)
        progress_brief(q->status.phase, &q->status.left);
    handout_report(q->handout, &q->status);
}

static void take_ending(struct job_status *s, const struct training *t)
{
    s->last = ending_last(&t->state.ending, t->parts.config);
    ending_why(s->ended, &t->state.ending, t->parts.config);
}

static void take_looks(struct job_status *s, const struct looked *l)
{
    s->validation_first = l->start;
    s->validation = l->newest;
    s->validation_best = l->best;
    s->best_step = l->best_step;
}

/* After every step, on every rank of the group. */
static void on_step(void *arg, const struct metric *metric)
{
    struct queue *q = arg;
    struct job_status *s = &q->status;
    bool first = s->step == 0;
    s->step = metric->step;
    s->loss = metric->loss;
    take_looks(s, &q->learning->training.state.looked);
    take_ending(s, &q->learning->training);
    s->evaluations = (double)(metric->step * q->job->lanes);
    s->evaluations_per_second = metric->evaluations_per_second;
    if (first && is_leader(q)) {
        q->job->status = *s;
        struct error e = learning_check(q->learning);
        if (e.code == ERROR_NONE)
            e = result_write(q->job); // so that a resumed run knows the first validation
        if (e.code != ERROR_NONE)
            log_warning("%s", e.text);
    }
    tick_group(q);
}

static void tick_all(void *arg)
{
    struct queue *q = arg;
    handout_poll(q->handout);
}

/* A fatal error also goes to the original stderr, not only to the job's log. */
static void print_abort(void *arg, const char *text)
{
    const struct queue *q = arg;
    if (q->job)
        job_log_fatal(&q->log, q->job, comm_rank(q->parts.comm), text);
}

/* The leader. */
static struct error open_folder(struct queue *q, struct job *job, struct learning *learning)
{
    TRY(folder_within(q->jobs.folder, job->folder));
    TRY(learning_prepare(learning, &job->subject.config, START_RESUME)); // job_folders_prepare has begun there
    return job_log_open(&q->log, job);
}

static struct error learn(struct queue *q, struct job *job, struct learning *learning)
{
    TRY(comm_agree(q->serving.pipeline.comm, is_leader(q) ? open_folder(q, job, learning) : ok()));
    struct error e = learning_run(learning, job->start == START_RESUME);
    q->status.step = learning->training.state.step; // also for a job that had no step left
    if (learning->training.state.looked.draws > 0) {
        take_looks(&q->status, &learning->training.state.looked);
        take_ending(&q->status, &learning->training);
    }
    return e;
}

/* The leader: writes the job's outcome into its folder, unless another run is writing there. */
static void record_outcome(struct queue *q, struct job *job, struct error e)
{
    struct job_status *s = &q->status;
    s->state = e.code == ERROR_NONE ? JOB_DONE : e.code == ERROR_PREEMPTED ? JOB_STOPPED : JOB_FAILED;
    s->error = e;
    s->phase[0] = 0;
    s->left = -1;
    s->evaluations = (double)(s->step * job->lanes);
    s->finished = s->state == JOB_STOPPED ? 0 : clock_date();
    result_totals(s, job->folder);
    learning_gain(q->learning, s->gain);
    job->status = *s;
    struct error written = learning_check(q->learning);
    if (written.code == ERROR_NONE && q->learning->claim.held)
        written = result_write(job);
    if (written.code != ERROR_NONE && s->state == JOB_DONE) {
        s->state = JOB_FAILED;
        s->error = written;
    }
}

/* The group works on one job; q->status becomes its outcome. Errors are the job's. */
static void run_job(struct queue *q, struct job *job)
{
    q->job = job;
    q->status = job->status;
    q->status.state = JOB_RUNNING;
    q->status.group = handout_group_of(comm_rank(q->parts.comm), comm_size(q->parts.comm), q->serving.groups);
    q->status.step = 0;
    handout_report(q->handout, &q->status);
    struct learning learning = {.subject = &job->subject, .root = q->jobs.folder, .on_step = on_step, .arg = q};
    q->learning = &learning;
    struct error e = learn(q, job, &learning);
    if (is_leader(q)) {
        if (e.code != ERROR_NONE)
            log_line("%s", e.text);
        record_outcome(q, job, e);
    }
    job_log_close(&q->log);
    learning_free(&learning);
    if (e.code != ERROR_NONE)
        device_wait(q->serving.pipeline.device); // an error that sticks to the device is this job's, not the next one's
    q->learning = NULL;
    q->job = NULL;
}

/* -------------------------------------------------------------------------------- running jobs */

/* Rank 0: a group reports how far its job is. */
static void on_report(void *arg, const struct job_status *status)
{
    struct queue *q = arg;
    struct job *job = &q->jobs.items[status->job];
    job->status = *status;
    bool news = display_show(q->display, job);
    if (news && status->state >= JOB_STOPPED && check_folder(q).code == ERROR_NONE)
        results_write_summary(&q->results); // a failure is reported at the end, when it is written for the last time
}

static struct error hand_out(struct queue *q, const int64_t *order, int64_t count)
{
    const struct handout_parts parts = {
        .all = q->parts.comm,
        .group = q->serving.pipeline.comm,
        .groups = q->serving.groups,
        .timeout = q->serving.config.cluster.timeout,
        .order = order,
        .count = count,
        .report = on_report,
        .arg = q,
    };
    TRY(comm_agree(q->parts.comm, handout_new(&q->handout, &parts)));
    comm_listen(q->serving.pipeline.comm, (struct comm_listener){tick_group, print_abort, q});
    comm_listen(q->parts.comm, (struct comm_listener){tick_all, print_abort, q});
    q->status = (struct job_status){.job = -1};
    while (true) {
        int64_t next;
        TRY(handout_next(q->handout, &q->status, &next));
        if (next < 0)
            break;
        run_job(q, &q->jobs.items[next]);
    }
    return handout_end(q->handout);
}

static struct error run_jobs(struct queue *q)
{
    struct pipeline *p = &q->serving.pipeline;
    int64_t *order = memory_alloc(q->jobs.count, sizeof *order);
    struct error e = comm_agree(q->parts.comm, order ? ok() : error_memory("the queue"));
    bool was_muted = progress_set_muted(true); // the display has the terminal; a job's phases are in its log
    if (e.code == ERROR_NONE)
        e = hand_out(q, order, jobs_order(&q->jobs, order));
    progress_set_muted(was_muted);
    comm_listen(p->comm, (struct comm_listener){0});
    comm_listen(q->parts.comm, (struct comm_listener){0});
    handout_free(q->handout);
    q->handout = NULL;
    memory_free(order);
    return e;
}

/* A spool's jobs do not depend on whether the summary of a batch can be written. */
static struct error blame_summary(const struct queue *q, struct error e)
{
    if (e.code == ERROR_NONE || q->jobs.kind == JOBS_FILE)
        return e;
    log_warning("%s", e.text);
    return ok();
}

/* Rank 0: the queue has its folder and groups. */
static struct error begin_results(struct queue *q)
{
    q->results.ranks = comm_size(q->parts.comm);
    q->results.groups = q->serving.groups;
    return blame_summary(q, results_write_summary(&q->results));
}

/* Everything that can be checked is checked before the first step. */
static struct error prepare(struct queue *q)
{
    TRY(queue_pipeline_open(&q->serving, &q->jobs, q->parts.comm, q->parts.devices));
    if (q->serving.opened) // else no job is left
        TRY(jobs_read_subjects(&q->jobs, &q->serving.pipeline));
    TRY(prepare_folders(q));
    if (!jobs_first_pending(&q->jobs))
        return ok();
    TRY(queue_pipeline_divide(&q->serving, &q->jobs, q->parts.groups));
    TRY(comm_agree(q->parts.comm, is_root(q) ? begin_results(q) : ok()));
    TRY(jobs_plan(&q->jobs, &q->serving.pipeline));
    if (!jobs_first_pending(&q->jobs))
        return ok();
    TRY(jobs_encode(&q->jobs, &q->serving.pipeline));
    return queue_pipeline_load(&q->serving);
}

/* Jobs that ended before any was handed out: some were wrong, others an earlier run finished. */
static void show_ended(struct queue *q)
{
    for (int64_t i = 0; i < q->jobs.count; i++)
        if (!q->jobs.items[i].external && !job_is_pending(&q->jobs.items[i]))
            display_show(q->display, &q->jobs.items[i]);
}

static struct error finish(struct queue *q)
{
    struct progress progress;
    display_finish(q->display);
    progress_phase(&progress, "writing the results of all jobs", 0, "");
    struct error e = check_folder(q);
    if (e.code == ERROR_NONE)
        e = folder_make(q->jobs.folder); // no job may have needed it
    if (e.code == ERROR_NONE)
        e = results_write(&q->results);
    progress_end(&progress);
    display_summary(q->display, e.code == ERROR_NONE);
    return blame_summary(q, e);
}

static struct error prepare_batch(struct queue *q)
{
    struct error e = comm_agree(q->parts.comm, prepare(q));
    if (e.code != ERROR_NONE && q->jobs.kind == JOBS_SPOOL && !q->serving.loaded)
        queue_pipeline_close(&q->serving); // the next batch may ask for another model
    return blame_batch(q, e);
}

static struct error run_batch(struct queue *q)
{
    if (jobs_first_pending(&q->jobs))
        TRY(prepare_batch(q));
    if (is_root(q))
        show_ended(q);
    if (jobs_first_pending(&q->jobs))
        TRY(run_jobs(q));
    return comm_agree(q->parts.comm, is_root(q) ? finish(q) : ok());
}

/* All ranks get the time at which each job was submitted: its leader records that in its folder, for later runs and
 * runs of other jobs. */
static struct error share_submitted(struct queue *q)
{
    for (int64_t i = 0; i < q->jobs.count; i++) {
        struct job *job = &q->jobs.items[i];
        if (is_root(q) && !job->external && job->submitted <= 0)
            job->submitted = q->results.submitted;
        TRY(comm_broadcast(q->parts.comm, &job->submitted, sizeof job->submitted, 0));
    }
    return ok();
}

static struct error judge_and_run(struct queue *q, const char *source, enum start start)
{
    TRY(judge_folders(q, source));
    if (is_root(q))
        results_begin(&q->results, &q->jobs, start == START_RESUME);
    TRY(comm_agree(q->parts.comm, is_root(q) ? display_open(&q->display, &q->results) : ok()));
    TRY(share_submitted(q));
    return run_batch(q);
}

struct error queue_new(struct queue **queue, const struct queue_parts *parts)
{
    struct queue *q = *queue = memory_alloc(1, sizeof *q);
    if (q)
        q->parts = *parts;
    return comm_agree(parts->comm, q ? ok() : error_memory("the queue"));
}

struct error queue_run(struct queue *q, const struct jobs_source *source, const char *text, int64_t size,
                       const struct text_list *sets, enum start start)
{
    TRY(comm_agree(q->parts.comm, jobs_read(&q->jobs, source, text, size, sets)));
    for (int64_t i = 0; i < q->jobs.count && source->kind == JOBS_FILE; i++)
        q->jobs.items[i].start = start;
    q->lent = source->claim;
    if (!q->jobs.folder)
        return ok(); // no job of the spool has a valid config
    if (q->parts.only)
        TRY(jobs_select(&q->jobs, q->parts.only, source->name));
    struct error e = judge_and_run(q, source->name, start);
    if (is_root(q) && e.code == ERROR_BAD_INPUT)
        job_folders_withdraw(&q->jobs);
    return e;
}

void queue_clear(struct queue *q)
{
    claim_release(&q->claim);
    display_close(q->display);
    q->display = NULL;
    jobs_free(&q->jobs);
}

const struct jobs *queue_jobs(const struct queue *q)
{
    return &q->jobs;
}

void queue_free(struct queue *q)
{
    if (!q)
        return;
    queue_clear(q);
    queue_pipeline_close(&q->serving);
    memory_free(q);
}
