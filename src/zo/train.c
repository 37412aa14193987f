#include "zo/train.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/lr_schedule.h"
#include "base/memory.h"
#include "base/progress.h"
#include "files/file.h"
#include "report/metrics.h"
#include "zo/checkpoint.h"
#include "zo/coordinates.h"
#include "zo/exchange.h"
#include "zo/finite.h"
#include "zo/lane_check.h"
#include "zo/optimizer.h"
#include "zo/rebalance.h"

enum { VALIDATION_LANES = 4 };

/* What a primal lane costs in tangents until it is measured: at Stable Diffusion 1.5's sizes in fp32. */
static const double PRIMAL_COST = 0.88;

/* -------------------------------------------------------------------------------- one step, as in the paper */

/* What update k needs to know besides the losses; see struct update. */
static void update_rates(const struct training *t, int64_t k, double lr, double rates[3])
{
    const struct config *c = t->parts.config;
    rates[0] = coordinates_scale(&t->state, c, t->draws.shape.directions);
    optimizer_rates(c->optim.beta1, c->optim.beta2, k, lr, &rates[1], &rates[2]);
}

/* The next step. *stop: some rank was asked to stop. */
static struct error do_step(struct training *t, struct metric *m, bool *stop)
{
    const struct config *c = t->parts.config;
    struct state *s = &t->state;
    int64_t k = s->step + 1;
    double rates[3];

    // choose: pictures, captions, timesteps; the device draws noise and directions
    draws_make(&t->draws, k);
    m->removed = s->subspace.removed_rows;
    m->lr = ending_rate(&s->ending, c, k);
    t->lr = m->lr;
    update_rates(t, k, m->lr, rates);

    // evaluate the lanes, exchange their losses, estimate the gradient, project, update (zo/step.h)
    t->wish = comm_rank(t->parts.comm) == 0 ? ending_clock_wish(&t->clock, &s->ending, c, k) : 0;
    TRY(exchange_step(t, k, rates, stop));
    ending_grant(&s->ending, c, k, (int64_t)t->slots[t->lanes + NOTE_LAST]);

    // the new embedding goes into the history, of methods that use it
    if (c->optim.method == METHOD_ADAM && subspace_push(&s->subspace, s->embedding))
        step_put_removed(&t->step, s);
    s->step = k;
    comm_set_step(t->parts.comm, k);
    return rebalance_lanes(t);
}

struct error training_step(struct training *t)
{
    struct metric m = {0};
    bool stop;
    bool compares = t->state.noise.compared == 0; // outliers cost time, so those who measure steps have them, too
    TRY(coordinates_refresh(t));
    if (compares)
        TRY(guard_before(t, t->state.step + 1));
    TRY(do_step(t, &m, &stop));
    training_find_slopes(t, t->slopes);
    if (compares)
        guard_after(t, &m);
    return ok();
}

/* -------------------------------------------------------------------------------- between steps */

/* Every tau steps: do all ranks still hold the same bits as rank 0? */
static struct error compare_ranks(struct training *t)
{
    TRY(comm_agree(t->parts.comm, step_get(&t->step, &t->state)));
    uint32_t mine = state_hash(&t->state), first = mine;
    TRY(comm_broadcast(t->parts.comm, &first, sizeof first, 0));
    struct error e = ok();
    if (mine != first)
        e = error_failed("rank %d's state differs from rank 0's after step %lld", comm_rank(t->parts.comm),
                         (long long)t->state.step);
    return comm_agree(t->parts.comm, e);
}

void training_find_slopes(const struct training *t, double *slopes)
{
    const struct step_slots slots = step_slots_of(t->parts.config);
    for (int64_t j = 0; j < slots.batch * slots.n; j++)
        slopes[j] = step_slope(&slots, t->slots, j % slots.n + 1, j / slots.n, 1);
}

static double norm(const double *x, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

static int64_t last_step(const struct training *t)
{
    return ending_last(&t->state.ending, t->parts.config);
}

/* Are as many looks without a gain as the config has patience for? Those during the warmup do not count. */
static void judge_patience(struct training *t)
{
    const struct config *c = t->parts.config;
    int64_t step = t->state.step, rise = lr_schedule_rise(c->optim.schedule, c->optim.warmup);
    int64_t since = looks_until(&t->looks, step) - looks_until(&t->looks, rise);
    int64_t without_gain = t->state.looked.without_gain;
    ending_patience(&t->state.ending, c, step, without_gain < since ? without_gain : since);
}

/* Collective work that only some steps are followed by: a look at the embedding, ranks are compared. *last: no step
 * follows in this run. */
static struct error after_step(struct training *t, struct metric *m, bool stop, bool *last)
{
    // not for being the last: a run that was asked to stop must write a checkpoint, and may have little time
    if (looks_due(&t->looks, t->state.step) || t->state.step == last_step(t)) {
        TRY(looks_add(t));
        m->validation = t->state.looked.newest;
        m->best_step = t->state.looked.best_step;
        judge_patience(t);
    }
    *last = stop || t->state.step == last_step(t);
    return state_due(&t->state, t->state.subspace.tau) || *last ? compare_ranks(t) : ok();
}

/* A plan that has changed, and in `why` what the last step's line says about it. */
static void note_ending(const struct training *t, bool changed, struct metric *m, char why[ENDING_TEXT])
{
    ending_why(why, &t->state.ending, t->parts.config);
    if (why[0] && m->step == last_step(t))
        m->ended = why;
    if (changed && comm_rank(t->parts.comm) == 0)
        ending_log(&t->state.ending, t->parts.config, m->step);
}

/* Before a step: generates the pictures that were due after the previous one, and finds new directions. */
static struct error prepare(struct training *t, const struct training_calls *calls)
{
    if (t->state.step > 0 && state_due(&t->state, t->parts.config->output.sample_every))
        TRY(calls->sample(calls->arg, t->state.step, t->state.step == t->begun));
    return coordinates_refresh(t);
}

/* *stop: some rank was asked to stop meanwhile. */
static struct error prepare_or_stop(struct training *t, const struct training_calls *calls, bool *stop)
{
    struct error e = prepare(t, calls);
    *stop = e.code == ERROR_PREEMPTED;
    if (*stop && comm_rank(t->parts.comm) == 0)
        records_save(t);
    return *stop ? ok() : e;
}

double training_work(const struct training *t, int64_t step)
{
    int ranks = comm_size(t->parts.comm);
    int64_t looks = looks_until(&t->looks, step) + (step == last_step(t) && !looks_due(&t->looks, step));
    return (double)(step * share_of(t->lanes, 0, ranks).count) +
           (double)(looks * share_of(t->looks.draws, 0, ranks).count);
}

/* -------------------------------------------------------------------------------- the run */

/* A step with all that is due after it. */
static struct error step_and_records(struct training *t, const struct training_calls *calls, bool *stop)
{
    const struct config *c = t->parts.config;
    int64_t by = t->state.ending.by;
    bool tangents = c->zo.derivative == DERIVATIVE_TANGENT;
    struct metric m = {.losses = t->slots,
                       .loss_count = tangents ? c->optim.batch_size : t->lanes,
                       .slopes = t->slopes,
                       .slope_count = c->optim.batch_size * c->zo.n,
                       .validation = NAN,
                       .start = t->start_is_new ? t->state.looked.start : NAN};
    t->start_is_new = false;
    TRY(guard_before(t, t->state.step + 1));
    double began = clock_seconds(); // the others take as long without the comparison
    TRY(do_step(t, &m, stop));
    training_find_slopes(t, t->slopes);
    guard_after(t, &m);
    m.step = t->state.step;
    m.loss = step_mean(t->slots, 1, t->draws.shape.batch);
    m.grad_norm = norm(t->gradient, t->state.dim);
    m.seconds = clock_seconds() - began;
    m.evaluations_per_second = (double)t->lanes / m.seconds;
    t->seconds += m.seconds;
    bool last;
    char why[ENDING_TEXT];
    TRY(after_step(t, &m, *stop, &last));
    note_ending(t, t->state.ending.by != by, &m, why);
    if (comm_rank(t->parts.comm) == 0) {
        ending_tick(&t->clock, &t->state.ending, c);
        records_keep(t, &m, last);
    }
    calls->after_step(calls->arg, &m);
    return ok();
}

static struct error run_steps(struct training *t, const struct training_calls *calls)
{
    bool stop = false;
    while (t->state.step < last_step(t) && !stop) {
        TRY(prepare_or_stop(t, calls, &stop));
        if (!stop)
            TRY(step_and_records(t, calls, &stop));
    }
    // agreeing is a barrier too: after it everything that rank 0 saved is on the disk, so any rank may end
    TRY(comm_agree(t->parts.comm, comm_rank(t->parts.comm) == 0 ? records_finish(t) : ok()));
    if (stop && t->state.step < last_step(t))
        return error_preempted("stopped by a signal after a checkpoint; run again with --resume to continue");
    return ok();
}

struct error training_run(struct training *t, const struct training_calls *calls)
{
    bool first_rank = comm_rank(t->parts.comm) == 0;
    t->calls = calls;
    ending_start(&t->clock, &t->state.ending, t->state.step);
    struct error e = comm_agree(t->parts.comm, first_rank ? records_open(t) : ok());
    if (e.code == ERROR_NONE)
        e = looks_begin(t);
    if (e.code == ERROR_NONE) {
        t->records.last_checkpoint = clock_seconds();
        t->begun = t->state.step;
        if (calls->begin)
            calls->begin(calls->arg);
        e = run_steps(t, calls);
    }
    if (first_rank)
        records_close(t);
    t->calls = NULL;
    return e;
}

/* Rank 0. */
static struct error read_checkpoint(struct training *t)
{
    const char *output = t->parts.config->output.dir;
    char folder[PATH_SIZE];
    bool found;
    int64_t first_line, last_line;
    TRY(path_join(folder, output, "checkpoints"));
    metrics_range(output, &first_line, &last_line);
    TRY(checkpoint_resume(&t->state, folder, &t->parts.origin, last_line, &found, log_warning_text));
    ending_resume(&t->state.ending, t->parts.config);
    log_line(found ? "resuming after step %lld" : "no checkpoint to resume from: starting at step %lld",
             (long long)t->state.step);
    return ok();
}

static struct error read_state(struct training *t)
{
    struct comm *comm = t->parts.comm;
    TRY(comm_agree(comm, comm_rank(comm) == 0 ? read_checkpoint(t) : ok()));
    return state_broadcast(&t->state, comm); // the other ranks need not see the folder
}

/* -------------------------------------------------------------------------------- making and freeing */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* tau from the config, or min(128, width / 6). */
static int64_t tau_of(const struct config *config, int64_t width)
{
    return config->zo.tau ? config->zo.tau : most(least(width / 6, 128), 2);
}

/* What the ranks share out in a step: the lanes of differences, or the tangents of all pictures. */
static struct share_work work_of(const struct config *c)
{
    int64_t n = c->zo.n, batch = c->optim.batch_size;
    if (c->zo.derivative == DERIVATIVE_TANGENT)
        return (struct share_work){.pieces = n * batch, .group = n, .gamma = PRIMAL_COST};
    return (struct share_work){.pieces = (c->zo.sides * n + 1) * batch};
}

static struct error make_state(struct training *t)
{
    const struct config *c = t->parts.config;
    const struct dataset *set = t->parts.dataset;
    int64_t vectors = c->token.vectors, width = t->parts.text->config.width, ranks = comm_size(t->parts.comm);
    TRY(state_new(&t->state, vectors * width, tau_of(c, width), c->zo.nu));
    t->start = memory_alloc(t->state.dim, sizeof *t->start);
    if (!t->start)
        return error_memory("the training state");
    memcpy(t->start, t->parts.start, (size_t)t->state.dim * sizeof *t->start);
    memcpy(t->state.embedding, t->start, (size_t)t->state.dim * sizeof *t->start);
    coordinates_shape(&t->state, c, width);
    const struct draw_shape shape = draw_shape_of(c, set->trained, set->caption_per_picture ? 0 : set->captions.count,
                                                  set->height, set->width, set->channels, vectors * width);
    TRY(draws_new(&t->draws, &shape));
    TRY(gauss_newton_new(t));
    const struct share_work work = work_of(c);
    TRY(balance_new(&t->balance, &work, (int)ranks));
    t->slots = memory_alloc(t->lanes + NOTES + ranks, sizeof *t->slots);
    t->slopes = memory_alloc(c->optim.batch_size * c->zo.n, sizeof *t->slopes);
    t->gradient = memory_alloc(t->state.dim, sizeof *t->gradient);
    return t->slots && t->slopes && t->gradient ? ok() : error_memory("the training state");
}

/* What the device needs for steps and for validation. */
static struct error make_programs(struct training *t)
{
    const struct training_parts *p = &t->parts;
    const struct dataset *set = p->dataset;
    int rank = comm_rank(p->comm), ranks = comm_size(p->comm);
    TRY(text_encoder_add_ids(p->device, p->text, set->ids, set->captions.count * set->length));
    TRY(lane_sources_new(&t->sources, p));
    const struct step_shape shape = {t->lanes,
                                     NOTES,
                                     t->draws.shape.directions,
                                     t->state.subspace.tau,
                                     coordinates_rank(&t->state, p->config),
                                     t->state.coordinates};
    TRY(step_new(&t->step, p, &t->sources, &shape, t->balance.shares[rank], exchange_on_devices(t)));
    // no more lanes than a step has, of which tangents take less: so validation takes no more memory than learning
    const struct evaluator_shape *batch = &t->step.lanes.evaluator.shape;
    int64_t share = share_of(t->looks.draws, rank, ranks).count;
    int64_t lanes = least(share, least(batch->tangents ? batch->lanes / 2 : batch->lanes, VALIDATION_LANES));
    return validation_new(&t->validation, p, &t->sources, t->looks.draws, most(lanes, 1));
}

/* *cost: see lane_check. */
static struct error check_programs(struct training *t, double *cost)
{
    TRY(lane_check(t, cost));
    if (!t->guard.watches) // it evaluates without an update
        step_whole_only(&t->step);
    step_put(&t->step, &t->state);
    return ok();
}

static struct error make(struct training *t, bool resume)
{
    struct comm *comm = t->parts.comm;
    double cost = 0;
    TRY(comm_agree(comm, make_state(t)));
    if (resume)
        TRY(read_state(t));
    TRY(guard_begin(t));
    TRY(comm_agree(comm, make_programs(t)));
    TRY(coordinates_begin(t));
    TRY(comm_agree(comm, check_programs(t, &cost)));
    TRY(rebalance_by_cost(t, cost));
    return resume ? compare_ranks(t) : ok();
}

struct error training_new(struct training *t, const struct training_parts *parts, bool resume)
{
    const struct config *c = parts->config;
    *t = (struct training){.parts = *parts, .lanes = (c->zo.sides * c->zo.n + 1) * c->optim.batch_size};
    t->looks = looks_plan_of(c, t->lanes);
    struct progress progress;
    progress_phase(&progress, "preparing the steps", 0, ""); // a GPU compiles and captures, and lanes are compared
    struct error e = make(t, resume);
    progress_end(&progress);
    if (e.code == ERROR_NONE)
        rebalance_advise(t);
    else
        training_free(t);
    return e;
}

int64_t training_arena(const struct training *t)
{
    return program_bytes(t->step.whole ? t->step.whole : t->step.evaluate);
}

void training_free_device(struct training *t)
{
    step_free(&t->step);
    validation_free(&t->validation);
    text_basis_free(&t->finder);
    lane_sources_free(&t->sources, t->parts.device);
}

void training_free(struct training *t)
{
    training_free_device(t);
    state_free(&t->state);
    draws_free(&t->draws);
    balance_free(&t->balance);
    memory_free(t->slots);
    memory_free(t->slopes);
    memory_free(t->gradient);
    gauss_newton_free(t);
    guard_free(t);
    memory_free(t->start);
    *t = (struct training){0};
}
