#include "queue/work.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cluster/signals.h"
#include "files/file.h"
#include "pipeline/memory_plan.h"
#include "queue/assignment.h"
#include "queue/job_folders.h"
#include "queue/results.h"

static bool is_leader(const struct work *w)
{
    return comm_rank(w->pipeline->comm) == 0;
}

/* -------------------------------------------------------------------------------- how it is going */

static void note_move(struct job_status *s)
{
    double now = clock_date();
    s->interval = fmax(s->interval, now - s->moved);
    s->moved = now;
}

void work_look(struct work *w)
{
    struct job_status *s = &w->status;
    char before[PROGRESS_BRIEF];
    memcpy(before, s->phase, sizeof before);
    progress_brief(s->phase, &s->left);
    if (strcmp(before, s->phase) != 0)
        note_move(s);
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

/* On every rank of the group. */
static void on_step(void *arg, const struct metric *metric)
{
    struct work *w = arg;
    struct job_status *s = &w->status;
    bool first = s->step == 0;
    s->step = metric->step;
    s->loss = metric->loss;
    take_looks(s, &w->learning.training.state.looked);
    take_ending(s, &w->learning.training);
    s->evaluations = (double)(metric->step * w->job.lanes);
    s->evaluations_per_second = metric->evaluations_per_second;
    note_move(s);
    if (first && is_leader(w)) {
        w->job.status = *s;
        struct error e = learning_check(&w->learning);
        if (e.code == ERROR_NONE)
            e = result_write(&w->job); // so that a resumed run knows the first validation
        if (e.code != ERROR_NONE)
            log_warning("%s", e.text);
    }
    w->tick(w->arg);
}

/* -------------------------------------------------------------------------------- learning */

/* A file's jobs were planned before the first began, but not each of them. */
static struct error check_memory(const struct work *w)
{
    struct memory_plan plan = {0};
    struct pipeline *p = w->pipeline;
    if (device_identity(p->device) == 0)
        return ok();
    TRY(memory_plan_job(&plan, &w->subject));
    return memory_plan_fits(&plan, p->device, p->comm);
}

static struct error read_subject(struct work *w)
{
    struct pipeline *p = w->pipeline;
    struct job *job = &w->job;
    TRY(pipeline_recheck(p));
    TRY(comm_agree(p->comm, pipeline_serves(p, &job->config)));
    TRY(subject_read(&w->subject, p, &job->config, job_folder_start(w->jobs, job)));
    job->subject = &w->subject;
    TRY(comm_agree(p->comm, job_set_recipe(job, &w->subject.config))); // auto is resolved by now
    return check_memory(w);
}

/* The leader. From here on messages go to the job's log. */
static struct error open_folder(struct work *w)
{
    TRY(job_folder_begin(w->jobs, &w->job, &w->learning));
    w->begun = true;
    return job_log_open(&w->log, &w->job);
}

static struct error learn(struct work *w, const char *assignment)
{
    struct comm *comm = w->pipeline->comm;
    TRY(comm_agree(comm, assignment_read(&w->job, w->jobs, assignment, w->status.job)));
    TRY(read_subject(w));
    w->learning = (struct learning){.subject = &w->subject, .root = w->jobs->folder, .on_step = on_step, .arg = w};
    TRY(comm_agree(comm, is_leader(w) ? open_folder(w) : ok()));
    TRY(subject_encode(&w->subject));
    struct error e = learning_run(&w->learning, w->job.start == START_RESUME);
    const struct training *t = &w->learning.training;
    w->status.step = t->state.step; // also for a job that had no step left
    if (t->state.looked.draws > 0) {
        take_looks(&w->status, &t->state.looked);
        take_ending(&w->status, t);
    }
    return e;
}

/* -------------------------------------------------------------------------------- the outcome */

static int64_t state_after(struct error e)
{
    if (e.code == ERROR_NONE)
        return JOB_DONE;
    if (e.code != ERROR_PREEMPTED)
        return JOB_FAILED;
    return signals_cancel_requested() ? JOB_CANCELLED : JOB_STOPPED;
}

/* The leader: into the job's folder, unless another run is writing there. */
static struct error write_outcome(struct work *w)
{
    w->job.status = w->status;
    if (!w->begun) {
        claim_release(&w->learning.claim); // it may be ours already
        job_folder_fail(w->jobs, &w->job);
        return ok();
    }
    TRY(learning_check(&w->learning));
    return w->learning.claim.held ? result_write(&w->job) : ok();
}

static void record_outcome(struct work *w, struct error e)
{
    struct job_status *s = &w->status;
    s->state = state_after(e);
    s->error = e;
    s->phase[0] = 0;
    s->left = -1;
    s->since = clock_date();
    s->finished = s->state == JOB_STOPPED ? 0 : s->since;
    s->evaluations = (double)(s->step * w->job.lanes);
    if (w->begun) {
        result_totals(s, w->job.folder);
        learning_gain(&w->learning, s->gain);
    }
    struct error written = write_outcome(w);
    if (written.code != ERROR_NONE && s->state == JOB_DONE) {
        s->state = JOB_FAILED;
        s->error = written;
    }
}

static void begin_status(struct work *w)
{
    struct job_status *s = &w->status;
    s->state = JOB_RUNNING;
    s->since = s->moved = clock_date();
    s->ranks = comm_size(w->pipeline->comm);
    gethostname(s->host, sizeof s->host - 1);
}

/* Work that is under way goes on. */
static void on_progress(void *arg)
{
    struct work *w = arg;
    w->tick(w->arg);
}

void work_run(struct work *w, const char *assignment)
{
    begin_status(w);
    progress_listen(on_progress, w);
    w->tick(w->arg);
    struct error e = learn(w, assignment);
    progress_unlisten(on_progress, w);
    if (is_leader(w)) {
        if (e.code != ERROR_NONE && w->log.open)
            log_line("%s", e.text);
        record_outcome(w, e);
    }
    learning_end(&w->learning, w->status.error, w->status.state == JOB_CANCELLED ? "cancelled" : NULL);
    job_log_close(&w->log);
    learning_free(&w->learning);
    if (e.code != ERROR_NONE)
        device_wait(w->pipeline->device); // an error that sticks to the device is this job's, not the next one's
}

void work_abort(struct work *w, const char *text)
{
    learning_end(&w->learning, error_failed("%s", text), NULL);
}

void work_free(struct work *w)
{
    subject_free(&w->subject);
    job_free(&w->job);
}
