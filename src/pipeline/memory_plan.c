#include "pipeline/memory_plan.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "pipeline/derivative.h"
#include "pipeline/pictures.h"
#include "zo/train.h"

/* The peak since the last call. */
static void end_phase(struct memory_plan *plan, enum phase phase, struct device *d)
{
    struct memory_use use = device_memory(d);
    if (use.most > plan->phases[phase].most)
        plan->phases[phase] = use;
    if (use.most > plan->most)
        plan->most = use.most;
    device_memory_reset_peak(d);
}

static struct error count_pictures(struct memory_plan *plan, struct subject *s, const float *embedding, bool last)
{
    struct pictures pictures;
    TRY(pictures_generate(&pictures, s, embedding, last));
    pictures_free(&pictures);
    end_phase(plan, PHASE_PICTURES, s->pipeline->device);
    return ok();
}

/* Performs the phases up to `until` and counts their memory. last: no subject follows, as in pictures_generate. */
static struct error count_phases(struct memory_plan *plan, struct subject *s, enum phase until, bool last)
{
    struct pipeline *p = s->pipeline;
    if (!last)
        TRY(pipeline_load(p)); // for the subject before
    TRY(subject_encode(s));
    end_phase(plan, PHASE_ENCODE, p->device);
    if (last)
        TRY(pipeline_load(p));
    TRY(subject_start(s));
    const struct training_parts parts = subject_parts(s);
    struct training t;
    TRY(training_new(&t, &parts, false));
    struct error e = ok();
    if (until == PHASE_PICTURES && s->config.output.sample_every > 0)
        e = pictures_sample(s, t.state.embedding, 0, false, NULL);
    training_free_device(&t);
    end_phase(plan, PHASE_TRAIN, p->device);
    if (e.code == ERROR_NONE && until == PHASE_PICTURES)
        e = count_pictures(plan, s, t.state.embedding, last);
    training_free(&t);
    return e;
}

/* A run on a simulated GPU shows itself as one phase, and none of its own. */
struct trial {
    struct progress progress;
    bool was_muted;
};

static void begin_trial(struct trial *t)
{
    progress_phase(&t->progress, "planning GPU memory", 0, "");
    t->was_muted = progress_set_muted(true);
}

static struct error end_trial(struct trial *t, struct error e)
{
    progress_set_muted(t->was_muted);
    progress_end(&t->progress);
    return e;
}

/* A pipeline on a simulated GPU, and in it the subject that another pipeline has read; with zo.derivative auto it takes
 * what a GPU does. */
static struct error open_again(struct pipeline *p, struct subject *s, const struct subject *from)
{
    struct config config;
    TRY(config_copy(&config, &from->config));
    struct pipeline_choice choice = pipeline_choice_of(&config);
    choice.device = "cuda";
    const char *why;
    struct error e = pipeline_open(p, &choice, from->pipeline->comm, NULL);
    if (e.code == ERROR_NONE && config.zo.derivative == DERIVATIVE_AUTO)
        e = derivative_settle(&config, p, START_NEW, &why);
    if (e.code == ERROR_NONE)
        e = subject_again(s, p, &config, from);
    config_free(&config);
    return e;
}

/* The plan of a subject that has been read: each phase grows to what it needs. *takes: its zo.derivative; may be NULL. */
static struct error plan_again(struct memory_plan *plan, const struct subject *from, enum phase until, bool last,
                               enum derivative *takes)
{
    struct pipeline p = {0};
    struct subject s = {0};
    struct trial trial;
    begin_trial(&trial);
    struct error e = comm_agree(from->pipeline->comm, open_again(&p, &s, from));
    if (e.code == ERROR_NONE)
        e = pipeline_link(&p, &s.config);
    if (e.code == ERROR_NONE)
        e = count_phases(plan, &s, until, last);
    if (takes)
        *takes = s.config.zo.derivative;
    subject_free(&s);
    pipeline_close(&p);
    return end_trial(&trial, e);
}

struct error memory_plan_job(struct memory_plan *plan, const struct subject *s)
{
    return plan_again(plan, s, PHASE_PICTURES, false, NULL);
}

/* -------------------------------------------------------------------------------- a config's plan */

/* The arena of a step by one kind of derivative. */
static struct error find_arena(struct subject *s, enum derivative derivative, int64_t *bytes)
{
    struct training t;
    s->config.zo.derivative = derivative;
    const struct training_parts parts = subject_parts(s);
    TRY(training_new(&t, &parts, false));
    *bytes = training_arena(&t);
    training_free(&t);
    return ok();
}

static struct error find_arenas(struct config_plan *plan, struct subject *s)
{
    struct pipeline *p = s->pipeline;
    TRY(subject_encode(s));
    TRY(pipeline_load(p));
    TRY(subject_start(s));
    if (s->config.zo.sides == 1)
        TRY(find_arena(s, DERIVATIVE_TANGENT, &plan->tangent));
    return find_arena(s, DERIVATIVE_DIFFERENCE, &plan->difference);
}

/* As on a CPU. */
static struct error open_on_cpu(struct pipeline *p, struct subject *s, struct config *config, struct comm *comm)
{
    struct pipeline_choice choice = pipeline_choice_of(config);
    choice.device = "cpu";
    TRY(pipeline_open(p, &choice, comm, NULL));
    struct error e = subject_read(s, p, config, START_NEW);
    if (e.code != ERROR_NONE)
        pipeline_close(p);
    return e;
}

struct error memory_plan_config(struct config_plan *plan, const char *path, const struct text_list *sets,
                                struct comm *comm)
{
    struct subject s;
    struct pipeline p;
    struct config config;
    struct trial trial;
    TRY(config_read(&config, path, sets));
    *plan = (struct config_plan){0};
    const enum derivative asked = config.zo.derivative;
    begin_trial(&trial);
    struct error e = open_on_cpu(&p, &s, &config, comm);
    config_free(&config);
    if (e.code == ERROR_NONE) {
        plan->takes = s.config.zo.derivative;
        plan->lr = s.config.optim.lr;
        plan->vectors = s.config.token.vectors;
        initializer_log(&s.initializer, &s.config);
        plan->rate_was_auto = s.rate_was_auto;
        e = find_arenas(plan, &s);
        s.config.zo.derivative = asked;
        if (e.code == ERROR_NONE)
            e = plan_again(&plan->on, &s, PHASE_PICTURES, true, &plan->takes_there);
        subject_close(&s);
    }
    return end_trial(&trial, e);
}

/* -------------------------------------------------------------------------------- printing and comparing */

const char *memory_plan_phase(enum phase phase)
{
    static const char *const names[PHASES] = {"encode pictures", "train", "draw pictures"};
    return names[phase];
}

void memory_plan_print(const struct memory_plan *plan, FILE *to)
{
    fprintf(to, "%-16s %13s %13s %10s %9s %13s %9s\n", "bytes on a GPU", "weights", "activations", "state", "scratch",
            "in all", "MB");
    for (int i = 0; i < PHASES; i++) {
        const struct memory_use *u = &plan->phases[i];
        fprintf(to, "%-16s %13lld %13lld %10lld %9lld %13lld %9.1f\n", memory_plan_phase(i),
                (long long)u->peak[MEMORY_WEIGHTS], (long long)u->peak[MEMORY_ACTIVATIONS],
                (long long)u->peak[MEMORY_STATE], (long long)u->peak[MEMORY_SCRATCH], (long long)u->most,
                (double)u->most / 1e6);
    }
}

/* The memory that all ranks sharing this rank's GPU will need. Collective. */
static struct error sum_sharers(struct comm *comm, struct device *device, double mine, double *all, int *sharers)
{
    int ranks = comm_size(comm), rank = comm_rank(comm);
    double *table = memory_alloc(2 * ranks, sizeof *table), *gpus = table + ranks;
    TRY(comm_agree(comm, table ? ok() : error_memory("the ranks' plans")));
    table[rank] = mine;
    gpus[rank] = (double)device_identity(device);
    struct error e = comm_sum(comm, table, 2 * ranks);
    *all = 0;
    *sharers = 0;
    for (int r = 0; r < ranks; r++)
        if (gpus[r] == gpus[rank]) {
            *all += table[r];
            ++*sharers;
        }
    memory_free(table);
    return e;
}

/* Is there room for `all` bytes, needed by `sharers` ranks? */
static struct error check_room(const struct device *device, double all, int64_t left, int sharers, const char *lower)
{
    if (all <= (double)left)
        return ok();
    return error_input("%s: the run needs %.0f MB%s, but %.0f MB are free; lower %s%s", device_name(device), all / 1e6,
                       sharers > 1 ? " for the ranks that share it" : "", (double)left / 1e6, lower,
                       sharers > 1 ? ", or run fewer ranks on this GPU" : "");
}

/* memory_plan_fits for `most` bytes; lower: what the user may lower. */
static struct error check_fits(int64_t most, struct device *device, struct comm *comm, const char *lower)
{
    int64_t left, used;
    double all;
    int sharers;
    TRY(comm_agree(comm, device_memory_left(device, &left, &used)));
    TRY(sum_sharers(comm, device, (double)(most - device_memory(device).total), &all, &sharers));
    TRY(comm_agree(comm, check_room(device, all, left, sharers, lower)));
    if (comm_rank(comm) == 0)
        log_line("GPU memory: %.1f MB planned", (double)most / 1e6);
    return ok();
}

struct error memory_plan_fits(const struct memory_plan *plan, struct device *device, struct comm *comm)
{
    return check_fits(plan->most, device, comm, "data.resolution, zo.n or optim.batch_size, set quant.bits to 4");
}

struct error memory_plan_check(struct memory_plan *plan, const struct subject *s, enum phase last)
{
    *plan = (struct memory_plan){0};
    if (device_identity(s->pipeline->device) == 0)
        return ok();
    TRY(plan_again(plan, s, last, true, NULL));
    return memory_plan_fits(plan, s->pipeline->device, s->pipeline->comm);
}

/* -------------------------------------------------------------------------------- pictures alone */

/* Generates one picture on a simulated GPU. */
static struct error plan_generation(const struct generation *g, const struct pipeline_choice *choice, int64_t *bytes)
{
    struct pipeline p;
    TRY(pipeline_open(&p, choice, g->pipeline->all, NULL));
    struct generation plan = *g;
    plan.pipeline = &p;
    struct error e = pipeline_load(&p);
    if (e.code == ERROR_NONE)
        e = generation_run(&plan, 1);
    *bytes = generation_bytes(&plan);
    pipeline_close(&p);
    return e;
}

struct error memory_plan_generation(const struct generation *g, const struct pipeline_choice *choice, int64_t *bytes)
{
    *bytes = 0;
    if (device_identity(g->pipeline->device) == 0)
        return ok();
    struct trial trial;
    begin_trial(&trial);
    TRY(end_trial(&trial, plan_generation(g, choice, bytes)));
    return check_fits(*bytes, g->pipeline->device, g->pipeline->comm,
                      "--size, or use a model written by zoodip quantize");
}
