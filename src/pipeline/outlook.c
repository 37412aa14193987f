#include "pipeline/outlook.h"

#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "model/sampler.h"
#include "pipeline/pictures.h"
#include "zo/looks.h"

enum { RATED = 2 };              /* steps that a rate is found from */
static const double WRONG = 0.5; /* share of an estimate by which it must be off, */
static const double MUCH = 2;    /* and seconds */

/* -------------------------------------------------------------------------------- work */

/* From the run's start, at which the samples that were due had been made or not. */
static double work_until(const struct outlook *o, int64_t step)
{
    int64_t every = o->training->parts.config->output.sample_every;
    return training_work(o->training, step) +
           (every > 0 && step > 0 ? (double)((step - 1) / every) : 0) * o->sample_cost;
}

static int64_t last_step(const struct outlook *o)
{
    return ending_last(&o->training->state.ending, o->training->parts.config);
}

/* The work that is left, those of the pictures not counted, at `pace` seconds for an evaluation. */
static double work_left(const struct outlook *o, double pace)
{
    const struct training *t = o->training;
    double minutes = t->parts.config->optim.minutes, left = work_until(o, last_step(o)) - work_until(o, t->state.step);
    double time = fmax(0, 60 * minutes - t->state.ending.seconds);
    return minutes > 0 && pace > 0 ? fmin(left, time / pace) : left;
}

struct run_evaluations outlook_evaluations(const struct config *c)
{
    struct noise_schedule schedule;
    struct error e = noise_schedule_read(&schedule, c->model, prediction_named(c->prediction));
    if (e.code != ERROR_NONE)
        schedule = (struct noise_schedule){0};
    int64_t lanes = (c->zo.sides * c->zo.n + 1) * c->optim.batch_size, prompts = c->output.prompts.count;
    const struct looks_plan looks = looks_plan_of(c, lanes);
    const struct run_evaluations r = {
        .lanes = lanes,
        .looks = 1 + looks_until(&looks, c->optim.steps),
        .draws = looks.draws,
        .samples = c->output.sample_every > 0 ? (c->optim.steps - 1) / c->output.sample_every * prompts : 0,
        .pictures = 2 * prompts,
        .each = (c->output.guidance > 1 ? 2 : 1) *
                sampler_calls(&schedule, sampler_default(&schedule), c->output.sample_steps)};
    if (e.code == ERROR_NONE)
        noise_schedule_free(&schedule);
    return r;
}

/* -------------------------------------------------------------------------------- the estimate */

static void tell(const struct outlook *o, double left)
{
    const struct training *t = o->training;
    bool may_end = t->parts.config->optim.patience > 0 && t->state.ending.by == ENDED_BY_STEPS;
    double pace = t->seconds / RATED;
    char time[32];
    progress_duration(time, left);
    log_line("%.3g s a step, %.3g evaluations/s: %s %s to the end, pictures included", pace, (double)t->lanes / pace,
             may_end ? "at most" : "about", time);
}

static void correct(struct outlook *o, double so_far, double left)
{
    char then[32], now[32];
    if (o->corrected || fabs(so_far + left - o->seconds) < fmax(MUCH, WRONG * o->seconds))
        return;
    progress_duration(then, o->seconds);
    progress_duration(now, left);
    log_line("the estimate of %s in all was wrong by half: now about %s to the end", then, now);
    o->corrected = true;
}

/* so_far, left: seconds, those of the pictures included. */
static void estimate(struct outlook *o, double so_far, double left)
{
    int64_t steps = o->training->state.step - o->begun, last = last_step(o);
    if (steps == RATED)
        tell(o, left);
    else if (steps > RATED && o->last == last)
        correct(o, so_far, left);
    if (steps == RATED || o->last != last) // a fall that has begun leaves less to do
        o->seconds = so_far + left;
    o->last = last;
}

/* -------------------------------------------------------------------------------- in a run */

void outlook_begin(struct outlook *o, const struct training *training, const struct subject *subject)
{
    *o = (struct outlook){.training = training,
                          .sample_cost = pictures_cost(subject, 1),
                          .end_cost = pictures_cost(subject, 2),
                          .begun = training->state.step,
                          .began = clock_seconds()};
    snprintf(o->what, sizeof o->what, "learning %.100s", subject->config.token.placeholder);
    progress_begin(&o->progress, o->what, o->begun, last_step(o));
}

void outlook_step(struct outlook *o, const struct metric *m)
{
    char text[160];
    if (!o->training)
        return;
    double done = work_until(o, m->step) - work_until(o, o->begun), so_far = clock_seconds() - o->began;
    double pace = so_far / done, left = work_left(o, pace);
    o->left = pace * (left + o->end_cost);
    o->when = o->began + so_far;
    estimate(o, so_far, o->left);
    snprintf(text, sizeof text, "loss %.5f, validation %.5f, %.3g evaluations/s", m->loss,
             o->training->state.looked.newest, m->evaluations_per_second);
    progress_aim(&o->progress, last_step(o));
    progress_weigh(&o->progress, done, left, o->end_cost);
    progress_step(&o->progress, m->step, text);
}

double outlook_left(const struct outlook *o)
{
    return o->when > 0 ? fmax(0, o->left - (clock_seconds() - o->when)) : NAN;
}

void outlook_end(struct outlook *o)
{
    if (o->training)
        progress_end(&o->progress);
    o->training = NULL;
}
