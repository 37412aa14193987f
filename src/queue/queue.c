#include "queue/queue.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/clock.h"
#include "pipeline/memory_plan.h"
#include "files/file.h"
#include "report/metrics.h"

static bool speaks(const struct queue *b)
{
    return comm_rank(b->all) == 0;
}

static bool leads(const struct queue *b)
{
    return comm_rank(b->pipeline.comm) == 0;
}

/* -------------------------------------------------------------------------------- folders */

static void forget_result(const struct job *job)
{
    char path[PATH_SIZE];
    if (path_join(path, job->folder, "job.json").code == ERROR_NONE)
        unlink(path);
}

/* No link in a job's folder may make us write outside the queue's folder. */
static struct error prepare_job(const struct queue *b, struct job *job)
{
    struct learning learning = {0};
    TRY(folder_within(b->jobs.folder, job->folder));
    struct error e = learning_prepare(&learning, job->read ? &job->subject.config : &job->config, job->resume);
    if (e.code == ERROR_NONE && !job->resume)
        forget_result(job);
    learning_free(&learning);
    return e;
}

/* Sends a job's outcome, as rank 0 knows it, to all. */
static struct error share_notes(struct queue *b)
{
    for (int64_t i = 0; i < b->jobs.count; i++)
        TRY(comm_broadcast(b->all, &b->jobs.items[i].note, sizeof b->jobs.items[i].note, 0));
    return ok();
}

/* Later runs, and runs of other jobs, know a job only from its folder; one that failed before its folder was prepared
 * has left nothing there yet, so write its outcome now. */
static void leave_failure(const struct queue *b, const struct job *job)
{
    struct claim claim = {0};
    if (job->elsewhere || job->note.state != JOB_FAILED || !job->folder ||
        folder_within(b->jobs.folder, job->folder).code != ERROR_NONE)
        return;
    if (folder_make(job->folder).code == ERROR_NONE && claim_folder(&claim, job->folder, 0).code == ERROR_NONE)
        result_write(job); // whether or not that works, the run ends with the job's own error
    claim_release(&claim);
}

static struct error prepare_folders(struct queue *b)
{
    struct error e = ok();
    if (speaks(b))
        e = config_blame(&b->pipeline.config, "output.dir", folder_make(b->jobs.folder));
    if (speaks(b) && e.code == ERROR_NONE && !b->only)
        e = claim_folder(&b->claim, b->jobs.folder, learning_patience(&b->pipeline.config));
    TRY(comm_agree(b->all, e));
    for (int64_t i = 0; i < b->jobs.count && speaks(b); i++) {
        struct job *job = &b->jobs.items[i];
        if (!job_open(job)) {
            leave_failure(b, job);
            continue;
        }
        e = prepare_job(b, job);
        if (e.code != ERROR_NONE)
            job_fail(job, e);
    }
    return share_notes(b);
}

/* Marks the jobs that an earlier run of this queue finished. */
static struct error read_results(struct queue *b)
{
    for (int64_t i = 0; i < b->jobs.count && speaks(b); i++)
        if (job_open(&b->jobs.items[i]) && b->jobs.items[i].resume)
            result_read(&b->jobs.items[i]);
    return share_notes(b);
}

/* -------------------------------------------------------------------------------- one job */

/* Steps, losses and seconds, over all runs of this job, from its records. */
static void add_up(struct job_note *n, const struct job *job)
{
    struct metric_table lines;
    if (metrics_read(&lines, job->folder).code != ERROR_NONE)
        return;
    n->seconds = 0;
    for (int64_t i = 0; i < lines.count; i++)
        n->seconds += lines.seconds[i];
    int64_t tail = lines.count < 100 ? lines.count : 100;
    double sum = 0;
    for (int64_t i = lines.count - tail; i < lines.count; i++)
        sum += lines.losses[i];
    if (tail > 0)
        n->loss = sum / (double)tail;
    metric_table_free(&lines);
}

/* After every step, on every rank of the group. */
static void told(void *arg, const struct metric *metric)
{
    struct queue *b = arg;
    struct job_note *n = &b->current;
    bool first = n->step == 0;
    n->step = metric->step;
    n->loss = metric->loss;
    n->validation = b->learning->training.validation_last;
    n->evaluations = (double)(metric->step * b->job->lanes);
    n->evaluations_per_second = metric->evaluations_per_second;
    if (metric->step == 1)
        n->validation_first = b->learning->training.validation_first;
    if (first && leads(b)) {
        b->job->note = *n;
        struct error e = result_write(b->job); // so that a resumed run knows the first validation
        if (e.code != ERROR_NONE)
            log_warning("%s", e.text);
    }
    handout_report(&b->handout, n);
}

static void tell_meanwhile(void *arg)
{
    struct queue *b = arg;
    handout_report(&b->handout, &b->current);
}

static void serve_meanwhile(void *arg)
{
    struct queue *b = arg;
    handout_serve(&b->handout);
}

/* A fatal error also goes to the original stderr, not only to the job's log. */
static void cry_out(void *arg, const char *text)
{
    const struct queue *b = arg;
    if (b->job)
        dprintf(b->spoken, "zoodip: %s: rank %d: %s\n", b->job->name, comm_rank(b->all), text);
}

/* While a job runs, its leader's messages go to the job's log, in full even under --quiet; b->spoken becomes their
 * previous destination. */
static struct error log_begin(struct queue *b, const struct job *job)
{
    char path[PATH_SIZE];
    TRY(path_join(path, job->folder, "log.txt"));
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | (job->resume ? 0 : O_TRUNC);
    int file = open(path, flags, 0666);
    if (file < 0)
        return error_errno("write", path);
    int copy = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    struct error e = copy >= 0 && dup2(file, STDERR_FILENO) >= 0 ? ok() : error_errno("write", path);
    b->spoken = copy >= 0 ? copy : b->spoken;
    b->quiet = log_set_quiet(false);
    close(file);
    return e;
}

static void log_end(struct queue *b)
{
    if (b->spoken == STDERR_FILENO)
        return;
    log_set_quiet(b->quiet);
    dup2(b->spoken, STDERR_FILENO);
    close(b->spoken);
    b->spoken = STDERR_FILENO;
}

static struct error teach(struct queue *b, struct job *job, struct learning *learning)
{
    struct error e = ok();
    if (leads(b)) {
        e = folder_within(b->jobs.folder, job->folder);
        if (e.code == ERROR_NONE)
            e = learning_prepare(learning, &job->subject.config, true);
        if (e.code == ERROR_NONE)
            e = log_begin(b, job);
    }
    TRY(comm_agree(b->pipeline.comm, e));
    e = learning_run(learning, job->resume);
    b->current.step = learning->training.state.step; // also for a job that had no step left
    b->current.validation = learning->training.validation_last;
    return e;
}

/* The leader: writes the job's outcome into its folder, unless another run is writing there. */
static void settle(struct queue *b, struct job *job, struct error e)
{
    struct job_note *n = &b->current;
    n->state = e.code == ERROR_NONE ? JOB_DONE : e.code == ERROR_PREEMPTED ? JOB_STOPPED : JOB_FAILED;
    n->error = e;
    n->evaluations = (double)(n->step * job->lanes);
    n->finished = n->state == JOB_STOPPED ? 0 : clock_date();
    add_up(n, job);
    job->note = *n;
    struct error written = b->learning->claim.held ? result_write(job) : ok();
    if (written.code != ERROR_NONE && n->state == JOB_DONE) {
        n->state = JOB_FAILED;
        n->error = written;
    }
}

/* The group does one job; b->current becomes its note. Errors are the job's. */
static void do_job(struct queue *b, struct job *job)
{
    b->job = job;
    b->current = job->note;
    b->current.state = JOB_RUNNING;
    b->current.group = b->handout.number;
    b->current.step = 0;
    handout_report(&b->handout, &b->current);
    struct learning learning = {.subject = &job->subject, .told = told, .arg = b};
    b->learning = &learning;
    struct error e = teach(b, job, &learning);
    if (leads(b)) {
        if (e.code != ERROR_NONE)
            log_line("%s", e.text);
        settle(b, job, e);
    }
    log_end(b);
    learning_free(&learning);
    if (e.code != ERROR_NONE)
        device_wait(b->pipeline.device); // an error that sticks to the device belongs to this job, not to the next
    b->learning = NULL;
    b->job = NULL;
}

/* -------------------------------------------------------------------------------- the batch */

static struct error work_off(struct queue *b, const int64_t *order, int64_t count)
{
    TRY(comm_agree(b->all, handout_new(&b->handout, b->all, b->pipeline.comm, b->groups,
                                       b->pipeline.config.cluster.timeout, order, count, display_hear, &b->display)));
    comm_listen(b->pipeline.comm, (struct comm_listener){tell_meanwhile, cry_out, b});
    comm_listen(b->all, (struct comm_listener){serve_meanwhile, cry_out, b});
    b->current = (struct job_note){.job = -1};
    while (true) {
        int64_t next;
        TRY(handout_next(&b->handout, &b->current, &next));
        if (next < 0)
            break;
        do_job(b, &b->jobs.items[next]);
    }
    return handout_end(&b->handout);
}

static struct error do_jobs(struct queue *b)
{
    struct pipeline *w = &b->pipeline;
    int64_t *order = memory_alloc(b->jobs.count, sizeof *order);
    struct error e = comm_agree(b->all, order ? ok() : error_memory("the queue"));
    b->spoken = STDERR_FILENO;
    if (e.code == ERROR_NONE)
        e = work_off(b, order, jobs_order(&b->jobs, order));
    comm_listen(w->comm, (struct comm_listener){0});
    comm_listen(b->all, (struct comm_listener){0});
    handout_free(&b->handout);
    memory_free(order);
    return e;
}

/* The first job that can be learned opens the pipeline. In a file, all jobs need the same model. */
static struct error open_workshop(struct queue *b)
{
    for (struct job *job = jobs_first_open(&b->jobs); job && !b->opened; job = jobs_first_open(&b->jobs)) {
        comm_set_timeout(b->all, job->config.cluster.timeout);
        struct error mine = pipeline_open(&b->pipeline, &job->config, b->all, b->devices);
        struct error e = comm_agree(b->all, mine);
        if (e.code == ERROR_NONE)
            e = pipeline_compare(&b->pipeline);
        b->opened = e.code == ERROR_NONE;
        if (!b->opened && mine.code == ERROR_NONE)
            pipeline_close(&b->pipeline);
        if (!b->opened && b->jobs.kind == JOBS_FILE)
            return e;
        if (!b->opened)
            job_fail(job, e);
        else if (speaks(b) && device_note(b->pipeline.device)[0])
            log_line("%s", device_note(b->pipeline.device));
    }
    return ok();
}

/* Once: the ranks split into groups. */
static struct error divide(struct queue *b)
{
    struct pipeline *w = &b->pipeline;
    int size = comm_size(b->all);
    if (b->groups > 0)
        return ok();
    b->groups = b->wanted > 0 ? (int)b->wanted : jobs_groups(&b->jobs, size);
    TRY(pipeline_divide(w, handout_group_of(comm_rank(b->all), size, b->groups)));
    if (speaks(b))
        log_line("%d rank%s in %d group%s", size, size == 1 ? "" : "s", b->groups, b->groups == 1 ? "" : "s");
    return comm_agree(b->all, pipeline_link(w, w->config.cluster.timeout));
}

/* A GPU's memory is planned before any work is done: the most that any of the jobs needs. */
static struct error plan_jobs(struct queue *b)
{
    struct memory_plan plan = {0};
    struct pipeline *w = &b->pipeline;
    if (device_identity(w->device) == 0)
        return ok();
    for (int64_t i = 0; i < b->jobs.count; i++) {
        struct config copy;
        if (!job_open(&b->jobs.items[i]))
            continue;
        TRY(comm_agree(w->comm, config_copy(&copy, &b->jobs.items[i].subject.config)));
        TRY(memory_plan_job(&plan, &copy, w->comm));
    }
    return memory_plan_fits(&plan, w->device, b->all);
}

static struct error load_once(struct queue *b)
{
    if (!b->loaded)
        TRY(pipeline_load(&b->pipeline));
    b->loaded = true;
    return ok();
}

/* Everything that can be checked is checked before the first step. */
static struct error make_ready(struct queue *b)
{
    TRY(open_workshop(b));
    TRY(jobs_check(&b->jobs, &b->pipeline));
    TRY(prepare_folders(b));
    if (!jobs_first_open(&b->jobs))
        return ok();
    TRY(divide(b));
    TRY(comm_agree(b->all, speaks(b) ? display_begin(&b->display, comm_size(b->all), b->groups) : ok()));
    TRY(plan_jobs(b));
    TRY(jobs_encode(&b->jobs, &b->pipeline));
    return load_once(b);
}

static struct error show_and_do(struct queue *b)
{
    if (jobs_first_open(&b->jobs))
        TRY(make_ready(b));
    if (speaks(b))
        display_refresh(&b->display);
    if (jobs_first_open(&b->jobs))
        TRY(do_jobs(b));
    return comm_agree(b->all, speaks(b) ? display_finish(&b->display) : ok());
}

/* A job's leader records the time of submission in its folder, for later runs and runs of other jobs. */
static struct error share_submissions(struct queue *b)
{
    for (int64_t i = 0; i < b->jobs.count; i++) {
        struct job *job = &b->jobs.items[i];
        if (speaks(b) && !job->elsewhere && job->submitted <= 0)
            job->submitted = b->display.submitted;
        TRY(comm_broadcast(b->all, &job->submitted, sizeof job->submitted, 0));
    }
    return ok();
}

struct error queue_run(struct queue *b, const struct jobs_source *source, const char *text, int64_t size,
                       const struct text_list *sets, bool resume)
{
    TRY(comm_agree(b->all, jobs_read(&b->jobs, source, text, size, sets)));
    for (int64_t i = 0; i < b->jobs.count && source->kind == JOBS_FILE; i++)
        b->jobs.items[i].resume = resume;
    if (!b->jobs.folder)
        return ok(); // no job of the spool has a valid config
    if (b->only)
        TRY(jobs_choose(&b->jobs, b->only, source->name));
    TRY(read_results(b));
    struct error e = ok();
    if (speaks(b))
        e = display_open(&b->display, &b->jobs, resume ? summary_submitted(b->jobs.folder) : 0);
    TRY(comm_agree(b->all, e));
    TRY(share_submissions(b));
    return show_and_do(b);
}

void queue_clear(struct queue *b)
{
    claim_release(&b->claim);
    display_close(&b->display);
    jobs_free(&b->jobs);
}

void queue_close(struct queue *b)
{
    queue_clear(b);
    if (b->opened)
        pipeline_close(&b->pipeline);
    *b = (struct queue){0};
}
