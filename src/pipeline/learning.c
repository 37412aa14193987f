#include "pipeline/learning.h"

#include <math.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "files/file.h"
#include "pipeline/pictures.h"
#include "pipeline/run_report.h"
#include "report/plot.h"
#include "report/sheet.h"
#include "report/thumbnail.h"
#include "zo/checkpoint.h"

/* Nobody else writes here. A file that cannot be removed does no harm. */
static void remove_unfinished(const struct config *c)
{
    static const char *const parts[] = {".", "checkpoints", "samples"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char folder[PATH_SIZE];
        if (path_join(folder, c->output.dir, parts[i]).code == ERROR_NONE && folder_exists(folder))
            folder_clean_unfinished(folder);
    }
}

double learning_claim_timeout(const struct config *c)
{
    return fmin(10, c->cluster.timeout / 2);
}

static struct error claim(struct learning *l, const struct config *c)
{
    return l->claim.held ? ok() : claim_folder(&l->claim, c->output.dir, learning_claim_timeout(c));
}

struct error learning_claim(struct learning *l, const struct config *c, enum start start)
{
    enum path_kind kind;
    TRY(config_blame(c, "output.dir", path_look(c->output.dir, &kind)));
    if (kind != PATH_FOLDER)
        return ok();
    TRY(claim(l, c));
    if (start != START_OVERWRITE)
        return config_blame(c, "output.dir", previous_check(c->output.dir, start));
    bool announced;
    TRY(config_blame(c, "output.dir", previous_announce(c->output.dir, &announced)));
    l->announced = announced ? memory_string(c->output.dir) : NULL;
    return ok();
}

void learning_withdraw(struct learning *l)
{
    if (l->announced)
        previous_withdraw(l->announced);
}

/* Is there the word of a run that came to its end, whose last file is the report? */
static struct error is_finished(const struct config *c, bool *finished)
{
    char word[PATH_SIZE], report[PATH_SIZE];
    enum path_kind kinds[2];
    TRY(path_join(word, c->output.dir, "learned_embeds.safetensors"));
    TRY(path_join(report, c->output.dir, "report.html"));
    TRY(path_look(word, &kinds[0]));
    TRY(path_look(report, &kinds[1]));
    *finished = kinds[0] == PATH_FILE && kinds[1] == PATH_FILE;
    return ok();
}

/* May the subject go on from what is there? Not from step 0 over a finished word. */
static struct error check_origin(const struct learning *l, const struct config *c)
{
    char folder[PATH_SIZE];
    bool finished;
    const struct origin origin = subject_origin(l->subject);
    TRY(path_join(folder, c->output.dir, "checkpoints"));
    TRY(checkpoint_check(folder, &origin));
    TRY(is_finished(c, &finished));
    if (finished && !checkpoint_any(folder))
        return error_input("%s: holds a finished word, but no checkpoint for --resume to continue from; --overwrite "
                           "learns it anew",
                           c->output.dir);
    return ok();
}

/* What the state knows, for status.json. */
static void take_state(struct learning *l)
{
    const struct training *t = &l->training;
    const struct looked *found = &t->state.looked;
    struct run_status *s = &l->status;
    s->step = t->state.step;
    s->steps = ending_last(&t->state.ending, &l->subject->config);
    if (found->draws == 0)
        return;
    s->validation_first = found->start;
    s->validation_best = found->best;
    s->best_step = found->best_step;
}

static void on_progress(void *arg)
{
    struct learning *l = arg;
    l->status.seconds_left = outlook_left(&l->outlook);
    run_status_tick(&l->status);
}

/* A resumed run knows its step once it has read its checkpoint. */
static void begin_status(struct learning *l, const struct config *c, enum start start)
{
    run_status_begin(&l->status, c->output.dir, comm_size(l->subject->pipeline->comm));
    l->status.step = start == START_RESUME ? -1 : 0;
    l->status.steps = c->optim.steps;
    progress_listen(on_progress, l);
    on_progress(l);
}

struct error learning_prepare(struct learning *l, const struct config *c, enum start start)
{
    TRY(config_blame(c, "output.dir", folder_make(c->output.dir)));
    TRY(claim(l, c));
    remove_unfinished(c);
    memory_free(l->announced);
    l->announced = NULL;
    TRY(config_blame(c, "output.dir", previous_begin(c->output.dir, start)));
    // now no checkpoint is there that an --overwrite was about to move
    if (!l->subject)
        return ok();
    if (start == START_RESUME)
        TRY(check_origin(l, c));
    begin_status(l, c, start);
    return ok();
}

struct error learning_check(struct learning *l)
{
    const struct config *c = &l->subject->config;
    enum path_kind kind;
    TRY(path_look(c->output.dir, &kind));
    if (l->root)
        TRY(folder_within(l->root, c->output.dir));
    if (kind != PATH_NOTHING || !l->claim.held)
        return claim_check(&l->claim, c->output.dir);
    claim_release(&l->claim); // somebody has removed the folder
    TRY(folder_make(c->output.dir));
    TRY(claim(l, c));
    run_status_reopen(&l->status, c->output.dir);
    return ok();
}

/* Rank 0: pictures and curve, each even if the one before failed; the words, in case they were removed while pictures
 * were generated; and the report, which names it. */
static struct error write_results(struct learning *l, const struct pictures *pictures)
{
    const char *folder = l->subject->config.output.dir;
    TRY(learning_check(l));
    struct error e = sheet_write(folder, &pictures->shown, l->subject->resolution);
    e = error_first(e, thumbnail_write(folder, &pictures->shown));
    e = error_first(e, plot_write(folder));
    e = error_first(e, records_keep_words(&l->training));
    return error_first(e, run_report_write(l, pictures));
}

/* What a run leaves for people. Collective: all ranks generate. */
static struct error finish_run(struct learning *l)
{
    const struct pipeline *p = l->subject->pipeline;
    struct pictures pictures;
    int64_t left;
    if (device_memory_left(p->device, &left, &l->driver_used).code != ERROR_NONE)
        l->driver_used = 0; // it is only for a line of the log
    training_free_device(&l->training);
    TRY(pictures_generate(&pictures, l->subject, state_kept(&l->training.state), l->last));
    struct progress progress;
    progress_phase(&progress, "writing the report", 0, "");
    struct error e = comm_rank(p->comm) == 0 ? write_results(l, &pictures) : ok();
    pictures_free(&pictures);
    e = comm_agree(p->comm, e);
    progress_end(&progress);
    return e;
}

static struct error check_folder(void *arg)
{
    struct learning *l = arg;
    return comm_rank(l->subject->pipeline->comm) == 0 ? learning_check(l) : ok();
}

/* output.sample_every: generates pictures of the current word in samples/. */
static struct error generate_sample(void *arg, int64_t step, bool missing)
{
    struct learning *l = arg;
    bool closed = false;
    struct error e = check_folder(l);
    if (e.code != ERROR_NONE) {
        log_warning("%s; training continues without this sample", e.text);
        closed = true;
    }
    TRY(comm_broadcast(l->subject->pipeline->comm, &closed, sizeof closed, 0));
    if (closed)
        return ok();
    return pictures_sample(l->subject, l->training.state.embedding, step, missing, l->training.records.metrics);
}

static void begin_steps(void *arg)
{
    struct learning *l = arg;
    take_state(l);
    if (comm_rank(l->subject->pipeline->comm) == 0)
        outlook_begin(&l->outlook, &l->training, l->subject);
}

static void report_step(void *arg, const struct metric *metric)
{
    struct learning *l = arg;
    take_state(l);
    run_status_step(&l->status, metric->step, metric->loss);
    l->status.evaluations_per_second = metric->evaluations_per_second;
    outlook_step(&l->outlook, metric);
    if (l->on_step)
        l->on_step(l->arg, metric);
}

struct error learning_run(struct learning *l, bool resume)
{
    l->started = clock_seconds();
    TRY(subject_start(l->subject));
    if (comm_rank(l->subject->pipeline->comm) == 0)
        subject_log_choices(l->subject);
    const struct training_parts parts = subject_parts(l->subject);
    TRY(training_new(&l->training, &parts, resume));
    take_state(l);
    const struct training_calls calls = {
        .check = check_folder, .begin = begin_steps, .sample = generate_sample, .after_step = report_step, .arg = l};
    struct error e = training_run(&l->training, &calls);
    outlook_end(&l->outlook);
    return e.code == ERROR_NONE ? finish_run(l) : e;
}

void learning_gain(const struct learning *l, char text[GAIN_TEXT])
{
    const struct training *t = &l->training;
    const struct looked *found = &t->state.looked;
    text[0] = 0;
    if (found->draws == 0)
        return;
    struct gain gain = gain_read(t->parts.config->output.dir);
    bool agree = gain.best_step == found->best_step && gain.start == found->start;
    if (!agree)
        gain = (struct gain){
            .start = found->start, .best = found->best, .best_step = found->best_step, .most_step = found->best_step};
    gain.last = found->newest;
    gain.last_step = found->step;
    gain.looks = found->step > 0;
    gain_text(text, &gain);
}

void learning_end(struct learning *l, struct error e, const char *state)
{
    const char *end = e.code == ERROR_NONE ? "done" : e.code == ERROR_PREEMPTED ? "stopped" : "failed";
    run_status_end(&l->status, state ? state : end, e.code != ERROR_NONE && e.code != ERROR_PREEMPTED ? e.text : NULL);
}

void learning_free(struct learning *l)
{
    progress_unlisten(on_progress, l);
    run_status_close(&l->status);
    training_free(&l->training);
    memory_free(l->announced);
    claim_release(&l->claim);
}
