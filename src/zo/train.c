#include "zo/train.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/lr_schedule.h"
#include "base/memory.h"
#include "base/clock.h"
#include "base/progress.h"
#include "base/rng.h"
#include "cluster/signals.h"
#include "files/file.h"
#include "model/embedding.h"
#include "zo/checkpoint.h"
#include "zo/optimizer.h"

enum { VALIDATION_DRAWS = 60, VALIDATION_LANES = 4 };

/* Summed together with the losses, after them: how many ranks were asked to stop, and how many failed. */
enum { STOP, FAILED, NOTES };

int64_t training_tau(const struct config *config, int64_t width)
{
    int64_t fitting = width / 6 < 128 ? width / 6 : 128;
    return config->zo.tau ? config->zo.tau : fitting > 2 ? fitting : 2;
}

struct draw_shape training_draws(const struct config *config, int64_t pictures, int64_t captions, int64_t height,
                                 int64_t width, int64_t channels, int64_t dim)
{
    return (struct draw_shape){
        .seed = (uint64_t)config->seed,
        .pictures = pictures,
        .repeats = config->data.repeats,
        .captions = captions,
        .flip = config->data.flip,
        .batch = config->optim.batch_size,
        .height = height,
        .width = width,
        .channels = channels,
        .n = config->zo.n,
        .dim = dim,
        .timesteps = {(int32_t)config->zo.timesteps[0], (int32_t)config->zo.timesteps[1]},
    };
}

/* -------------------------------------------------------------------------------- one step, as in the paper */

static struct error first_error(struct error a, struct error b)
{
    return a.code != ERROR_NONE ? a : b;
}

/* No host between evaluation and update: a rank alone, or ranks whose devices meet in their streams. */
static bool at_once(const struct training *t)
{
    return comm_size(t->parts.comm) == 1 || device_joined(t->parts.device);
}

/* Sums the losses of all ranks' lanes, *stop, and, after the notes, each rank's time per lane (`seconds` is this
 * one's). A rank that failed says so beside its losses, so that all end together. */
static struct error sum_slots(struct training *t, struct error mine, double seconds, bool *stop)
{
    double *paces = t->slots + t->lanes + NOTES;
    memset(paces, 0, (size_t)comm_size(t->parts.comm) * sizeof *paces);
    paces[comm_rank(t->parts.comm)] = seconds;
    t->slots[t->lanes + STOP] = signals_stop_requested();
    t->slots[t->lanes + FAILED] = mine.code != ERROR_NONE;
    TRY(comm_sum(t->parts.comm, t->slots, t->lanes + NOTES + comm_size(t->parts.comm)));
    if (t->slots[t->lanes + FAILED] > 0)
        return comm_agree(t->parts.comm, mine);
    *stop = t->slots[t->lanes + STOP] > 0;
    return ok();
}

/* What update k needs to know besides the losses; see struct update. */
static void update_rates(const struct training *t, int64_t k, double lr, double rates[3])
{
    const struct config *c = t->parts.config;
    rates[0] = optimizer_scale(c->zo.n, t->dim, t->state.subspace.removed_rows);
    optimizer_rates(c->optim.beta1, c->optim.beta2, k, lr, &rates[1], &rates[2]);
}

/* The whole step in one program: a rank alone, or one whose device meets the others' in the stream. */
static struct error step_at_once(struct training *t, int64_t k, const double rates[3], bool *stop)
{
    struct device *d = t->parts.device;
    double notes[NOTES] = {[STOP] = signals_stop_requested()};
    TRY(step_whole(&t->step, k, &t->draws, notes, rates));
    device_read(d, t->slots, t->step.slots);
    TRY(device_wait(d));
    // a single rank may still stop; one of several only if all know
    *stop = t->slots[t->lanes + STOP] > 0 || (!device_joined(d) && signals_stop_requested());
    return ok();
}

/* Several ranks: each evaluates its share of the lanes, then all get all losses and make the same update. */
static struct error step_together(struct training *t, int64_t k, const double rates[3], bool *stop)
{
    const double notes[NOTES] = {0};
    struct device *d = t->parts.device;
    double began = clock_seconds();
    struct error e = step_evaluate(&t->step, k, &t->draws, notes, false);
    device_read(d, t->slots, t->step.slots);
    e = first_error(e, device_wait(d));
    // a GPU's memory is planned for its share, so the share must stay the same
    bool measured = t->step.share.count > 0 && device_identity(d) == 0;
    double seconds = measured ? (clock_seconds() - began) / (double)t->step.share.count : 0;
    TRY(sum_slots(t, e, seconds, stop));
    device_write(d, t->step.slots, t->slots);
    return step_update(&t->step, rates);
}

/* Agrees on how the step went, and sends rank 0's embedding to all, so that mixed hardware cannot drift apart. */
static struct error end_step(struct training *t, struct error mine)
{
    if (at_once(t)) // the others may be waiting in their GPUs, where no message reaches them
        return comm_abort(t->parts.comm, mine);
    TRY(comm_agree(t->parts.comm, mine));
    TRY(comm_broadcast(t->parts.comm, t->state.embedding, t->dim * (int64_t)sizeof *t->state.embedding, 0));
    device_write(t->parts.device, t->step.embedding, t->state.embedding);
    return ok();
}

/* Between two steps: changes the lanes that this rank evaluates. */
static struct error take_share(struct training *t, struct share share)
{
    const struct step_shape shape = t->step.shape;
    TRY(step_get(&t->step, &t->state));
    step_free(&t->step);
    TRY(step_new(&t->step, &t->parts, &shape, share, false));
    step_put(&t->step, &t->state);
    return device_wait(t->parts.device);
}

/* Moves lanes from slow ranks to ranks that wait for them. A lane's loss has the same bits whichever rank evaluates
 * it. */
static struct error balance_lanes(struct training *t)
{
    struct balance *b = &t->balance;
    int rank = comm_rank(t->parts.comm);
    if (!balance_note(b, t->slots + t->lanes + NOTES))
        return ok();
    if (rank == 0 && b->changes == 1) // once is enough: on busy cores they may change every few steps
        log_line("balanced: from step %lld on slower ranks evaluate fewer lanes (a step should take %.0f %% less time)",
                 (long long)t->state.step + 1, 100 * b->gain);
    struct share mine = b->shares[rank], before = t->step.share;
    bool same = mine.first == before.first && mine.count == before.count;
    return comm_agree(t->parts.comm, same ? ok() : take_share(t, mine));
}

/* Step k, from 1. *stop: some rank was asked to stop. */
static struct error take_step(struct training *t, int64_t k, struct metric *m, bool *stop)
{
    const struct config *c = t->parts.config;
    struct device *d = t->parts.device;
    struct state *s = &t->state;
    double rates[3];

    // choose: pictures, captions, timesteps; the device draws noise and directions
    draws_make(&t->draws, k);
    m->removed = s->subspace.removed_rows;
    m->lr = lr_schedule_rate(c->optim.schedule, c->optim.lr, k, c->optim.steps, c->optim.warmup);
    update_rates(t, k, m->lr, rates);

    // evaluate the lanes, estimate the gradient, project, update (zo/step.h)
    struct error e = at_once(t) ? step_at_once(t, k, rates, stop) : step_together(t, k, rates, stop);
    device_read(d, t->gradient, t->step.gradient);
    device_read(d, s->embedding, t->step.embedding);
    e = first_error(e, device_wait(d));

    // rank 0's embedding goes to all, and into the history
    TRY(end_step(t, e));
    if (subspace_push(&s->subspace, s->embedding))
        step_put_removed(&t->step, s);
    s->step = k;
    comm_set_step(t->parts.comm, k);
    return at_once(t) ? ok() : balance_lanes(t);
}

struct error training_step(struct training *t)
{
    struct metric m = {0};
    bool stop;
    return take_step(t, t->state.step + 1, &m, &stop);
}

/* -------------------------------------------------------------------------------- validation */

static struct error check_batch(struct training *t, int64_t first, int64_t end, const float *embedding)
{
    struct lane_batch *l = &t->checks;
    const struct evaluator_shape *s = &l->evaluator.shape;
    const struct config *c = t->parts.config;
    const struct dataset *set = t->parts.dataset;
    int64_t numbers = s->height * s->width * s->channels;
    float *noise = t->noise;
    for (int64_t k = 0; k < s->lanes; k++) {
        int64_t draw = first + k < end ? first + k : end - 1, picture = draw % set->count;
        uint64_t seed = (uint64_t)c->seed, index = (uint64_t)draw;
        int32_t timestep =
            rng_integer(seed, 0, STREAM_TIMESTEP, index, t->draws.shape.timesteps[0], t->draws.shape.timesteps[1]);
        rng_normals(seed, 0, STREAM_NOISE, index * (uint64_t)numbers, numbers, noise);
        dataset_latent(set, picture, t->parts.scaling_factor, t->latent);
        noise_add(t->parts.schedule, timestep, t->latent, noise, l->noisy + k * numbers, numbers);
        noise_target(t->parts.schedule, timestep, t->latent, noise, l->target + k * numbers, numbers);
        int64_t caption = set->caption_per_picture
                              ? picture
                              : rng_integer(seed, 0, STREAM_CAPTION, index, 0, (int32_t)set->captions.count);
        l->timesteps[k] = (float)timestep;
        l->map[k] = (int32_t)k;
        memcpy(l->ids + k * s->length, set->ids + caption * s->length, (size_t)s->length * sizeof *l->ids);
        memcpy(l->rows + k * t->dim, embedding, (size_t)t->dim * sizeof *embedding);
    }
    const struct evaluation batch = {l->noisy, l->target, l->timesteps, l->map, l->ids, l->rows};
    return evaluator_run(&l->evaluator, &batch, l->losses);
}

struct error training_validate(struct training *t, const float *embedding, double *loss)
{
    int64_t draws = t->validation_draws, step = t->checks.evaluator.shape.lanes;
    double *slots = memory_alloc(draws, sizeof *slots);
    struct error e = slots ? ok() : error_memory("the validation losses");
    struct share share = balance_share(&t->balance, draws, comm_rank(t->parts.comm));
    int64_t end = share.first + share.count;
    for (int64_t first = share.first; first < end && e.code == ERROR_NONE; first += step) {
        e = check_batch(t, first, end, embedding);
        int64_t count = end - first < step ? end - first : step;
        memcpy(slots + first, t->checks.losses, (size_t)count * sizeof *slots);
        comm_tick(t->parts.comm);
    }
    e = comm_agree(t->parts.comm, e);
    if (e.code == ERROR_NONE)
        e = comm_sum(t->parts.comm, slots, draws);
    double sum = 0;
    for (int64_t i = 0; i < draws && slots; i++)
        sum += slots[i];
    *loss = sum / (double)draws;
    memory_free(slots);
    return e;
}

/* -------------------------------------------------------------------------------- what a run leaves behind */

/* A file that cannot be written does not end the training: warns, and tries again at the next save. */
static void note(struct training *t, struct error e)
{
    t->unsaved = e.code != ERROR_NONE;
    if (t->unsaved)
        log_warning("%s; training continues and tries again at the next save", e.text);
}

static struct error write_embedding(const struct training *t, const char *name)
{
    const struct config *c = t->parts.config;
    char path[PATH_SIZE];
    TRY(path_join(path, c->output.dir, name));
    return embedding_write(path, c->token.placeholder, t->state.embedding, t->vectors, t->dim / t->vectors);
}

static struct error save_embedding(const struct training *t)
{
    char name[64];
    snprintf(name, sizeof name, "learned_embeds-steps-%lld.safetensors", (long long)t->state.step);
    TRY(write_embedding(t, name));
    return write_embedding(t, "learned_embeds.safetensors");
}

static struct error save_checkpoint(struct training *t)
{
    const struct config *c = t->parts.config;
    char folder[PATH_SIZE];
    TRY(path_join(folder, c->output.dir, "checkpoints"));
    t->last_checkpoint = clock_seconds();
    return checkpoint_write(&t->state, folder, t->parts.recipe, c->output.checkpoint_keep);
}

static bool every(int64_t step, int64_t period)
{
    return period > 0 && step % period == 0;
}

static bool checkpoint_due(const struct training *t)
{
    const struct config *c = t->parts.config;
    double minutes = c->output.checkpoint_minutes;
    return every(t->state.step, c->output.checkpoint_every) ||
           (minutes > 0 && clock_seconds() - t->last_checkpoint >= 60 * minutes);
}

/* Rank 0. e: an earlier error. */
static void save(struct training *t, struct metrics *metrics, bool checkpoint, bool embedding, struct error e)
{
    // without the device's moments a resume would have nothing to continue from
    struct error got = checkpoint ? step_get(&t->step, &t->state) : ok();
    e = first_error(e, got);
    // each file is tried even if the one before failed: a full disk may still have room for the smallest
    if (checkpoint || embedding)
        e = first_error(e, metrics_flush(metrics));
    if (embedding)
        e = first_error(e, save_embedding(t));
    if (checkpoint && got.code == ERROR_NONE)
        e = first_error(e, save_checkpoint(t));
    if (checkpoint || embedding || e.code != ERROR_NONE)
        note(t, e);
}

/* Rank 0, after a step: metrics, and whatever is due. `last`: no step follows in this run. */
static void keep_records(struct training *t, struct metrics *metrics, const struct metric *m, bool last)
{
    bool embedding = every(t->state.step, t->parts.config->output.save_every);
    save(t, metrics, last || checkpoint_due(t), last || embedding, metrics_add(metrics, m));
}

static void show(const struct training *t, struct progress *progress, const struct metric *m)
{
    char text[160];
    snprintf(text, sizeof text, "loss %.5f, validation %.5f, %.3g evaluations/s", m->loss, t->validation_last,
             m->evaluations_per_second);
    progress_step(progress, t->state.step, text);
}

/* -------------------------------------------------------------------------------- the run */

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

static double mean_loss(const struct training *t)
{
    double sum = 0;
    for (int64_t b = 0; b < t->draws.shape.batch; b++)
        sum += t->slots[b];
    return sum / (double)t->draws.shape.batch;
}

static double norm(const double *x, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

/* After these steps something collective is due besides the update. */
static struct error after_step(struct training *t, struct metric *m, bool last)
{
    const struct config *c = t->parts.config;
    if (every(t->state.step, t->state.subspace.tau) || last)
        TRY(compare_ranks(t));
    // not if the run was asked to stop: it must write a checkpoint, and may have little time
    if (every(t->state.step, t->validation_every) || t->state.step == c->optim.steps) {
        TRY(training_validate(t, t->state.embedding, &t->validation_last));
        m->validation = t->validation_last;
    }
    return ok();
}

/* Before a step: draws the picture that was due after the previous one. *stop: some rank was asked to stop
 * meanwhile. */
static struct error draw_sample(struct training *t, struct metrics *metrics, const struct training_calls *calls,
                                bool missing, bool *stop)
{
    if (t->state.step == 0 || !every(t->state.step, t->parts.config->output.sample_every))
        return ok();
    struct error e = calls->sample(calls->arg, t->state.step, missing);
    *stop = e.code == ERROR_PREEMPTED;
    if (*stop && comm_rank(t->parts.comm) == 0)
        save(t, metrics, true, true, ok());
    return *stop ? ok() : e;
}

static struct error run_steps(struct training *t, struct metrics *metrics, struct progress *progress,
                              const struct training_calls *calls)
{
    const struct config *c = t->parts.config;
    bool first_rank = comm_rank(t->parts.comm) == 0, stop = false;
    int64_t begun = t->state.step;
    while (t->state.step < c->optim.steps && !stop) {
        TRY(draw_sample(t, metrics, calls, t->state.step == begun, &stop));
        if (stop)
            break;
        double began = clock_seconds();
        struct metric m = {.losses = t->slots, .slots = t->lanes, .validation = NAN};
        TRY(take_step(t, t->state.step + 1, &m, &stop));
        bool last = stop || t->state.step == c->optim.steps;
        m.step = t->state.step;
        m.loss = mean_loss(t);
        m.grad_norm = norm(t->gradient, t->dim);
        m.seconds = clock_seconds() - began;
        m.evaluations_per_second = (double)t->lanes / m.seconds;
        t->seconds += m.seconds;
        TRY(after_step(t, &m, last));
        if (first_rank) {
            keep_records(t, metrics, &m, last);
            show(t, progress, &m);
        }
        if (calls->told)
            calls->told(calls->arg, &m);
    }
    // agreeing is a barrier too: after it everything that rank 0 saved is on the disk, so any rank may end
    struct error saved = t->unsaved ? error_failed("%s: the last save failed", c->output.dir) : ok();
    TRY(comm_agree(t->parts.comm, saved));
    if (stop && t->state.step < c->optim.steps)
        return (struct error){ERROR_PREEMPTED,
                              "stopped by a signal after a checkpoint; run again with --resume to continue"};
    return ok();
}

struct error training_run(struct training *t, const struct training_calls *calls)
{
    const struct config *c = t->parts.config;
    bool first_rank = comm_rank(t->parts.comm) == 0;
    struct metrics *metrics = NULL;
    struct error e = ok();
    if (first_rank)
        e = metrics_open(&metrics, c->output.dir, t->state.step);
    e = comm_agree(t->parts.comm, e);
    if (e.code == ERROR_NONE)
        e = training_validate(t, t->state.embedding, &t->validation_first);
    if (e.code == ERROR_NONE) {
        t->validation_last = t->validation_first;
        t->last_checkpoint = clock_seconds();
        char what[128];
        snprintf(what, sizeof what, "learning %.100s", c->token.placeholder);
        struct progress progress;
        progress_begin(&progress, what, t->state.step, c->optim.steps, !first_rank);
        e = run_steps(t, metrics, &progress, calls);
        progress_end(&progress);
    }
    if (first_rank)
        metrics_close(metrics);
    return e;
}

struct error training_resume(struct training *t)
{
    const struct config *c = t->parts.config;
    char folder[PATH_SIZE];
    bool found = false;
    struct error e = path_join(folder, c->output.dir, "checkpoints");
    if (e.code == ERROR_NONE)
        e = checkpoint_resume(&t->state, folder, t->parts.recipe, &found,
                              comm_rank(t->parts.comm) == 0 ? log_warning_text : log_nothing);
    TRY(comm_agree(t->parts.comm, e));
    if (comm_rank(t->parts.comm) == 0)
        log_line(found ? "resuming after step %lld" : "no checkpoint to resume from: starting at step %lld",
                 (long long)t->state.step);
    step_put(&t->step, &t->state);
    return compare_ranks(t);
}

/* -------------------------------------------------------------------------------- making and freeing */

static struct error batch_new(struct lane_batch *l, const struct training *t, int64_t lanes, int64_t pictures)
{
    const struct dataset *set = t->parts.dataset;
    const struct evaluator_shape s = {lanes,       pictures,   set->height,         set->width,       set->channels,
                                      set->length, t->vectors, t->dim / t->vectors, t->parts.first_id};
    int64_t numbers = set->height * set->width * set->channels;
    l->noisy = memory_alloc(pictures * numbers, sizeof *l->noisy);
    l->target = memory_alloc(pictures * numbers, sizeof *l->target);
    l->timesteps = memory_alloc(pictures, sizeof *l->timesteps);
    l->rows = memory_alloc(lanes * t->dim, sizeof *l->rows);
    l->map = memory_alloc(lanes, sizeof *l->map);
    l->ids = memory_alloc(lanes * set->length, sizeof *l->ids);
    l->losses = memory_alloc(lanes, sizeof *l->losses);
    if (!l->noisy || !l->target || !l->timesteps || !l->rows || !l->map || !l->ids || !l->losses)
        return error_memory("a batch of lanes");
    TRY(evaluator_new(&l->evaluator, t->parts.device, t->parts.text, t->parts.unet, &s));
    return evaluator_program(&l->evaluator);
}

static void batch_free(struct lane_batch *l)
{
    evaluator_free(&l->evaluator);
    memory_free(l->noisy);
    memory_free(l->target);
    memory_free(l->timesteps);
    memory_free(l->rows);
    memory_free(l->map);
    memory_free(l->ids);
    memory_free(l->losses);
    *l = (struct lane_batch){0};
}

/* Runs step 1 without its update; the losses go to `losses` [lanes of a step]. */
static struct error try_lanes(struct training *t, struct step *step, double *losses)
{
    const double notes[NOTES] = {0};
    struct device *d = t->parts.device;
    step_put(step, &t->state);
    draws_make(&t->draws, 1);
    TRY(step_evaluate(step, 1, &t->draws, notes, true));
    device_read(d, losses, tensor_lanes(step->slots, 0, t->lanes));
    return device_wait(d);
}

/* Checks at every start that a lane's bits do not depend on its neighbours: the first lane of a full batch must give
 * the same bits as the last of the batch, and alone. */
static struct error check_lanes(struct training *t)
{
    struct share share = t->step.share;
    if (share.count == 0)
        return ok();
    struct step alone;
    double *one = memory_alloc(t->lanes, sizeof *one);
    struct error e = one ? try_lanes(t, &t->step, t->slots) : error_memory("the losses");
    if (e.code == ERROR_NONE)
        e = step_new(&alone, &t->parts, &t->step.shape, (struct share){share.first, 1}, false);
    if (e.code == ERROR_NONE) {
        e = try_lanes(t, &alone, one);
        step_free(&alone);
    }
    int64_t lanes = t->step.evaluator.shape.lanes, last = share.first + lanes - 1;
    double mine = one ? one[share.first] : 0;
    memory_free(one);
    if (e.code == ERROR_NONE && !isfinite(mine))
        e = error_failed("%s: the model's loss is not a number: its weights are damaged, or its activations "
                         "overflow fp16 on a GPU (then set quant.activations to bf16)",
                         t->parts.config->model);
    if (e.code == ERROR_NONE && (mine != t->slots[share.first] || t->slots[last] != mine))
        e = error_failed(
            "%s: a lane's loss depends on the lanes beside it: %.17g alone, %.17g first, %.17g last of %lld",
            device_name(t->parts.device), mine, t->slots[share.first], t->slots[last], (long long)lanes);
    return e;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static struct error make_batches(struct training *t)
{
    int rank = comm_rank(t->parts.comm), ranks = comm_size(t->parts.comm);
    const struct step_shape shape = {t->lanes, NOTES, t->vectors, t->dim / t->vectors, t->state.subspace.tau};
    TRY(step_new(&t->step, &t->parts, &shape, t->balance.shares[rank], at_once(t)));
    struct share share = share_of(t->validation_draws, rank, ranks);
    // no more lanes than a step has, so that validation takes no more memory than learning
    int64_t most = least(t->step.evaluator.shape.lanes, VALIDATION_LANES), lanes = least(share.count, most);
    lanes = lanes > 1 ? lanes : 1;
    return batch_new(&t->checks, t, lanes, lanes);
}

static struct error make_state(struct training *t)
{
    const struct config *c = t->parts.config;
    const struct dataset *set = t->parts.dataset;
    int64_t width = t->dim / t->vectors, numbers = set->height * set->width * set->channels;
    TRY(state_new(&t->state, t->dim, training_tau(c, width), c->zo.nu));
    for (int64_t i = 0; i < t->vectors; i++)
        memcpy(t->state.embedding + i * width, t->parts.initializer, (size_t)width * sizeof(float));
    const struct draw_shape shape = training_draws(c, set->count, set->caption_per_picture ? 0 : set->captions.count,
                                                   set->height, set->width, set->channels, t->dim);
    TRY(draws_new(&t->draws, &shape));
    TRY(balance_new(&t->balance, t->lanes, comm_size(t->parts.comm)));
    t->slots = memory_alloc(t->lanes + NOTES + comm_size(t->parts.comm), sizeof *t->slots);
    t->gradient = memory_alloc(t->dim, sizeof *t->gradient);
    t->latent = memory_alloc(numbers, sizeof *t->latent);
    t->noise = memory_alloc(numbers, sizeof *t->noise);
    return t->slots && t->gradient && t->latent && t->noise ? ok() : error_memory("the training state");
}

struct error training_new(struct training *t, const struct training_parts *parts)
{
    const struct config *c = parts->config;
    *t = (struct training){.parts = *parts, .vectors = c->token.vectors};
    t->dim = t->vectors * parts->text->config.width;
    t->lanes = (c->zo.sides * c->zo.n + 1) * c->optim.batch_size;
    // four validations are enough, and together cost at most a fiftieth of the training
    t->validation_draws = least(VALIDATION_DRAWS, c->optim.steps * t->lanes / 200 + 1);
    t->validation_every = (c->optim.steps + 2) / 3;
    const struct dataset *set = parts->dataset;
    struct error e = make_state(t);
    if (e.code == ERROR_NONE)
        e = text_encoder_need(parts->device, parts->text, set->ids, set->captions.count * set->length);
    if (e.code == ERROR_NONE)
        e = make_batches(t);
    if (e.code == ERROR_NONE)
        e = check_lanes(t);
    if (e.code == ERROR_NONE && at_once(t))
        step_whole_only(&t->step);
    if (e.code == ERROR_NONE)
        step_put(&t->step, &t->state);
    e = comm_agree(parts->comm, e);
    if (e.code != ERROR_NONE)
        training_free(t);
    return e;
}

void training_rest(struct training *t)
{
    step_free(&t->step);
    batch_free(&t->checks);
}

void training_free(struct training *t)
{
    training_rest(t);
    state_free(&t->state);
    draws_free(&t->draws);
    balance_free(&t->balance);
    memory_free(t->slots);
    memory_free(t->gradient);
    memory_free(t->latent);
    memory_free(t->noise);
    *t = (struct training){0};
}
