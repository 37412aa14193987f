#include "queue/jobs_prepare.h"

#include "base/progress.h"
#include "files/file.h"
#include "pipeline/memory_plan.h"

/* How a job begins, for those who look into its folder already now: no link may lead them out of the queue's folder. */
static enum start start_within(const struct jobs *jobs, const struct job *job)
{
    bool within = job->start != START_RESUME || folder_within(jobs->folder, job->folder).code == ERROR_NONE;
    return within ? job->start : START_NEW; // preparing the folder says what is wrong with it
}

struct error jobs_read_subjects(struct jobs *jobs, struct pipeline *p)
{
    const struct error model = pipeline_recheck(p);
    struct progress progress;
    progress_phase(&progress, "reading the jobs' pictures", jobs->count, "");
    for (int64_t i = 0; i < jobs->count; i++) {
        struct job *job = &jobs->items[i];
        if (!job_is_pending(job))
            continue;
        struct error e = comm_agree(p->all, error_first(model, pipeline_serves(p, &job->config)));
        if (e.code == ERROR_NONE)
            e = subject_read(&job->subject, p, &job->config, start_within(jobs, job));
        job->has_subject = e.code == ERROR_NONE;
        if (job->has_subject)
            e = comm_agree(p->all, job_set_recipe(job, &job->subject.config)); // auto is resolved by now
        if (e.code != ERROR_NONE)
            job_fail(job, e);
        progress_step(&progress, i + 1, "");
    }
    progress_end(&progress);
    return ok();
}

/* What the pending jobs need of a GPU at the most. */
static struct error plan_all(struct memory_plan *plan, struct jobs *jobs)
{
    struct progress progress;
    struct error e = ok();
    *plan = (struct memory_plan){0};
    progress_phase(&progress, "planning the jobs' GPU memory", jobs->count, "");
    for (int64_t i = 0; i < jobs->count && e.code == ERROR_NONE; i++) {
        if (job_is_pending(&jobs->items[i]))
            e = memory_plan_job(plan, &jobs->items[i].subject);
        progress_step(&progress, i + 1, "");
    }
    progress_end(&progress);
    return e;
}

static struct error fail_too_large(struct jobs *jobs, struct pipeline *p)
{
    for (int64_t i = 0; i < jobs->count; i++) {
        struct memory_plan plan = {0};
        if (!job_is_pending(&jobs->items[i]))
            continue;
        TRY(memory_plan_job(&plan, &jobs->items[i].subject));
        struct error e = memory_plan_fits(&plan, p->device, p->all);
        if (e.code != ERROR_NONE)
            job_fail(&jobs->items[i], e);
    }
    return ok();
}

struct error jobs_plan(struct jobs *jobs, struct pipeline *p)
{
    struct memory_plan plan;
    if (device_identity(p->device) == 0)
        return ok();
    TRY(plan_all(&plan, jobs));
    struct error e = memory_plan_fits(&plan, p->device, p->all);
    return e.code != ERROR_NONE && jobs->kind == JOBS_SPOOL ? fail_too_large(jobs, p) : e;
}

struct error jobs_encode(struct jobs *jobs, struct pipeline *p)
{
    struct vae vae;
    TRY(pipeline_vae(p, p->all, true, false, &vae));
    int64_t pictures = 0;
    for (int64_t i = 0; i < jobs->count; i++)
        pictures += job_is_pending(&jobs->items[i]) ? jobs->items[i].subject.dataset.count : 0;
    pipeline_log_encoding(p, p->all, pictures);
    struct progress progress;
    progress_phase(&progress, "encoding pictures", pictures, "");
    int64_t done = 0;
    for (int64_t i = 0; i < jobs->count; i++) {
        struct job *job = &jobs->items[i];
        if (!job_is_pending(job))
            continue;
        struct error e = dataset_encode(&job->subject.dataset, p->device, &vae, p->all, &progress, done);
        done += job->subject.dataset.count;
        if (e.code != ERROR_NONE)
            job_fail(job, e);
    }
    progress_end(&progress);
    vae_free(&vae);
    return ok();
}
