#include "queue/jobs_plan.h"

#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
#include "pipeline/fingerprint.h"
#include "pipeline/memory_plan.h"
#include "queue/assignment.h"
#include "queue/job_folders.h"

/* The keys that memory depends on, the last one for the vectors of an initializer's file; the size of the model is the same
 * for all. */
enum { SHAPE = 14 };

static void find_shape(const struct job *job, int64_t shape[SHAPE])
{
    const struct config *c = &job->config;
    const int64_t keys[SHAPE] = {c->data.resolution,
                                 c->zo.n,
                                 c->zo.sides,
                                 c->zo.derivative,
                                 c->zo.directions,
                                 c->zo.rank,
                                 c->zo.directions_per,
                                 c->zo.tau,
                                 c->optim.batch_size,
                                 c->optim.method,
                                 c->token.vectors,
                                 c->output.prompts.count > 0,
                                 c->output.sample_every > 0,
                                 config_initializer_is_file(c) ? fingerprint_text(0, c->token.initializer) : 0};
    memcpy(shape, keys, sizeof keys);
}

/* Whether no pending job before this one has its shape. shapes: room for [count][SHAPE] of those found so far. */
static bool is_new(const struct job *job, int64_t (*shapes)[SHAPE], int64_t *count)
{
    find_shape(job, shapes[*count]);
    for (int64_t i = 0; i < *count; i++)
        if (memcmp(shapes[i], shapes[*count], sizeof shapes[i]) == 0)
            return false;
    ++*count;
    return true;
}

/* Rank 0: the next job to plan after place *at, as a text for all; NULL: none is left. */
static struct error find_next(const struct jobs *jobs, int64_t (*shapes)[SHAPE], int64_t *count, int64_t *at,
                              char **text)
{
    *text = NULL;
    while (*at < jobs->count) {
        const struct job *job = &jobs->items[(*at)++];
        if (job_is_pending(job) && is_new(job, shapes, count))
            return assignment_write(job, text);
    }
    return ok();
}

/* The plan grows to what this job needs. */
static struct error plan_one(struct memory_plan *plan, const struct jobs *jobs, struct pipeline *p, const char *text,
                             bool *readable)
{
    struct job job;
    struct subject subject;
    struct error e = comm_agree(p->all, assignment_read(&job, jobs, text, -1));
    if (e.code == ERROR_NONE)
        e = subject_read(&subject, p, &job.config, job_folder_start(jobs, &job));
    *readable = e.code == ERROR_NONE;
    if (*readable) {
        e = comm_agree(p->all, memory_plan_job(plan, &subject));
        subject_free(&subject);
    }
    job_free(&job);
    return *readable ? e : ok();
}

static struct error plan_all(struct memory_plan *plan, const struct jobs *jobs, struct pipeline *p,
                             int64_t (*shapes)[SHAPE])
{
    int64_t count = 0, at = 0;
    bool first = comm_rank(p->all) == 0, more = true;
    while (more) {
        char *text = NULL;
        TRY(comm_agree(p->all, first ? find_next(jobs, shapes, &count, &at, &text) : ok()));
        int64_t size = text ? (int64_t)strlen(text) : 0;
        more = text != NULL;
        struct error e = comm_broadcast(p->all, &more, sizeof more, 0);
        if (e.code == ERROR_NONE && more)
            e = comm_share_text(p->all, &text, &size);
        bool readable = true;
        if (e.code == ERROR_NONE && more)
            e = plan_one(plan, jobs, p, text, &readable);
        count -= first && !readable; // another job has to stand for those of its shape
        memory_free(text);
        TRY(e);
    }
    return ok();
}

struct error jobs_plan(const struct jobs *jobs, struct pipeline *p)
{
    struct memory_plan plan = {0};
    struct progress progress;
    if (device_identity(p->device) == 0)
        return ok();
    int64_t(*shapes)[SHAPE] = memory_alloc(jobs->count + 1, sizeof *shapes);
    progress_phase(&progress, "planning the jobs' GPU memory", 0, "");
    struct error e = comm_agree(p->all, shapes ? ok() : error_memory("the jobs"));
    if (e.code == ERROR_NONE)
        e = plan_all(&plan, jobs, p, shapes);
    progress_end(&progress);
    memory_free(shapes);
    TRY(e);
    return memory_plan_fits(&plan, p->device, p->all);
}
