#include "queue/job_folders.h"

#include <stdio.h>

#include "base/log.h"
#include "base/progress.h"
#include "files/claim.h"
#include "files/file.h"
#include "pipeline/learning.h"
#include "queue/results.h"

/* -------------------------------------------------------------------------------- judging */

/* What was found in all folders. */
struct judgement {
    int64_t finished, begun;
    const struct job *first; /* that was begun */
};

/* Can nothing be said about it now, because another run is writing there, or a link leads out of the queue's folder? */
static bool is_closed(const struct jobs *jobs, const struct job *job)
{
    struct claim claim = {0};
    if (folder_within(jobs->folder, job->folder).code != ERROR_NONE)
        return true;
    bool closed = claim_folder(&claim, job->folder, 0).code != ERROR_NONE;
    claim_release(&claim);
    return closed;
}

/* What a finished job was made of may have been exchanged since, under the same paths. */
static void compare_sources(const struct job *job)
{
    uint32_t now;
    struct error e = job->sources < 0 ? ok() : dataset_sources(&job->config, &now);
    if (e.code != ERROR_NONE)
        log_warning("%s: is finished and stays as it is; its photos, captions or first word cannot be read now: %s",
                    job->name, e.text);
    else if (job->sources >= 0 && job->sources != now)
        log_warning("%s: is finished and stays as it is, with other photos, captions or first word than it has now; "
                    "--overwrite learns it anew",
                    job->name);
}

static void leave_finished(struct judgement *j, const struct job *job, const char *difference)
{
    j->finished++;
    if (*difference)
        log_warning("%s: is finished and stays as it is, with another recipe than it has now%s; --overwrite learns it "
                    "anew",
                    job->name, difference);
    else
        compare_sources(job);
}

/* A spool's job, new or found in running/. One that was stopped or cancelled, or has failed, goes on when its file comes
 * back. */
static void judge_spooled(struct job *job, const char *spool)
{
    char difference[RECIPE_DIFFERENCE];
    if (job->start == START_NEW && result_unfinished(job))
        job->start = START_RESUME;
    bool other =
        job->start == START_NEW ? previous_found(job->folder) : result_finished(job, difference) == FINISHED_OTHERWISE;
    if (other)
        job_fail(job, error_input("%s/%s.json: name: %s holds results of an earlier job of that name; move them away, "
                                  "or choose another name",
                                  spool, job->name, job->folder));
    else if (job->start == START_RESUME)
        result_read(job);
}

static void judge(struct judgement *j, struct job *job)
{
    char difference[RECIPE_DIFFERENCE] = "";
    enum finished finished = result_finished(job, difference);
    bool more = finished == FINISHED_OTHER_STEPS && job->steps > job->status.step; // a run that resumes prolongs it
    if (finished != UNFINISHED && !(more && job->start == START_RESUME))
        leave_finished(j, job, difference);
    else if (job->start == START_RESUME)
        result_read(job);
    else if (previous_found(job->folder) && j->begun++ == 0)
        j->first = job;
}

/* What is wrong with the folder, job_folder_begin says. */
static void announce(struct job *job)
{
    struct claim claim = {0};
    if (claim_folder(&claim, job->folder, 0).code == ERROR_NONE)
        previous_announce(job->folder, &job->announced);
    claim_release(&claim);
}

void job_folder_withdraw(struct job *job)
{
    struct claim claim = {0};
    if (job->announced && claim_folder(&claim, job->folder, 0).code == ERROR_NONE)
        previous_withdraw(job->folder);
    claim_release(&claim);
    job->announced = false;
}

static struct error tell(const struct judgement *j, const char *source)
{
    char more[64] = "";
    if (j->begun > 1)
        snprintf(more, sizeof more, " (and %lld more)", (long long)j->begun - 1);
    if (j->begun > 0)
        return error_input("%s: %s: %s: was begun and is not finished%s; continue with --resume, or begin anew with "
                           "--overwrite",
                           source, j->first->name, j->first->folder, more);
    if (j->finished > 0)
        log_line("%lld job%s finished before: left as %s; --overwrite learns %s anew", (long long)j->finished,
                 j->finished == 1 ? "" : "s", j->finished == 1 ? "it is" : "they are",
                 j->finished == 1 ? "it" : "them");
    return ok();
}

struct error job_folders_judge(struct jobs *jobs)
{
    struct judgement j = {0};
    struct progress progress;
    progress_phase(&progress, "looking at what earlier runs left", jobs->count, "");
    for (int64_t i = 0; i < jobs->count; i++) {
        struct job *job = &jobs->items[i];
        if (!job_is_pending(job) || !folder_exists(job->folder) || is_closed(jobs, job))
            continue;
        if (job->start == START_OVERWRITE)
            announce(job);
        else
            judge(&j, job);
        progress_step(&progress, i + 1, "");
    }
    progress_end(&progress);
    return tell(&j, jobs->source.name);
}

void job_folder_judge(struct jobs *jobs, struct job *job)
{
    if (job_is_pending(job) && folder_exists(job->folder) && !is_closed(jobs, job))
        judge_spooled(job, jobs->source.name);
}

/* -------------------------------------------------------------------------------- beginning */

enum start job_folder_start(const struct jobs *jobs, const struct job *job)
{
    bool within = job->start != START_RESUME || folder_within(jobs->folder, job->folder).code == ERROR_NONE;
    return within ? job->start : START_NEW; // job_folder_begin says what is wrong with it
}

struct error job_folder_begin(const struct jobs *jobs, struct job *job, struct learning *learning)
{
    // no link in a job's folder may make us write outside the queue's folder
    TRY(folder_within(jobs->folder, job->folder));
    TRY(learning_prepare(learning, &job->subject->config, job->start));
    job->announced = false;
    if (job->start != START_RESUME)
        result_remove(job);
    return ok();
}

/* What a finished job has left says more than that a later one of its name has failed. */
static bool is_finished(const struct job *job)
{
    char difference[RECIPE_DIFFERENCE];
    struct job found = *job; // whose status becomes the finished one's
    return result_finished(&found, difference) != UNFINISHED;
}

/* Whether or not that works, the job ends as it does. */
static void write_outcome(const struct job *job)
{
    struct claim claim = {0};
    if (claim_folder(&claim, job->folder, 0).code == ERROR_NONE && !is_finished(job))
        result_write(job);
    claim_release(&claim);
}

void job_folder_fail(const struct jobs *jobs, struct job *job)
{
    if (job->status.error.code == ERROR_BAD_INPUT)
        job_folder_withdraw(job);
    if (job->external || !job->folder || folder_within(jobs->folder, job->folder).code != ERROR_NONE ||
        (job->start != START_RESUME && previous_found(job->folder)))
        return;
    if (folder_make(job->folder).code == ERROR_NONE)
        write_outcome(job);
}

void job_folder_cancel(const struct jobs *jobs, const struct job *job)
{
    if (job->start == START_RESUME && folder_exists(job->folder) &&
        folder_within(jobs->folder, job->folder).code == ERROR_NONE)
        write_outcome(job);
}

void job_folders_fail(struct jobs *jobs)
{
    for (int64_t i = 0; i < jobs->count; i++)
        if (jobs->items[i].status.state == JOB_FAILED)
            job_folder_fail(jobs, &jobs->items[i]);
}

void job_folders_withdraw(struct jobs *jobs)
{
    for (int64_t i = 0; i < jobs->count; i++)
        job_folder_withdraw(&jobs->items[i]);
}
