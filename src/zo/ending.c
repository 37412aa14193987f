#include "zo/ending.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/lr_schedule.h"

static const char *const names[] = {
    [ENDED_BY_STEPS] = "steps", [ENDED_BY_PATIENCE] = "patience", [ENDED_BY_MINUTES] = "minutes"};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* -------------------------------------------------------------------------------- the plan */

/* Of a run that has `steps` in all. */
static int64_t fall_of(const struct config *c, int64_t steps)
{
    return lr_schedule_fall(c->optim.schedule, steps, c->optim.decay);
}

/* Whether the rate holds and then falls, rather than as the config's other schedules. */
static bool falls(const struct config *c)
{
    return fall_of(c, c->optim.steps) > 0;
}

int64_t ending_last(const struct ending *e, const struct config *c)
{
    return e->by == ENDED_BY_STEPS ? c->optim.steps : e->last;
}

/* How many steps come before the fall, as it is planned now; all if there is none. */
static int64_t held(const struct ending *e, const struct config *c)
{
    return e->by == ENDED_BY_STEPS ? c->optim.steps - fall_of(c, c->optim.steps) : e->from;
}

double ending_rate(const struct ending *e, const struct config *c, int64_t step)
{
    if (e->by == ENDED_BY_STEPS || step <= e->from || !falls(c))
        return lr_schedule_rate(c->optim.schedule, c->optim.lr, step, c->optim.steps, c->optim.warmup, c->optim.decay);
    double progress = (double)(step - 1 - e->from) / (double)(e->last - e->from);
    return c->optim.lr * (e->share * fmax(0, 1 - progress));
}

static void plan(struct ending *e, const struct config *c, enum ended_by by, int64_t step, int64_t last)
{
    double share = ending_rate(e, c, step + 1) / c->optim.lr;
    e->by = e->by == ENDED_BY_STEPS ? by : e->by;
    e->from = step;
    e->last = last;
    e->share = share;
}

/* -------------------------------------------------------------------------------- who decides */

void ending_patience(struct ending *e, const struct config *c, int64_t step, int64_t without_gain)
{
    int64_t patience = c->optim.patience;
    if (patience == 0 || without_gain < patience || e->by != ENDED_BY_STEPS || step >= held(e, c))
        return;
    int64_t fall = !falls(c) ? 0 : c->optim.decay ? c->optim.decay : step;
    plan(e, c, ENDED_BY_PATIENCE, step, least(step + fall, c->optim.steps));
}

int64_t ending_wish(const struct ending *e, const struct config *c, int64_t step, int64_t reach)
{
    int64_t last = ending_last(e, c);
    if (step == last)
        return 0; // a fall that has reached its end has no rate left for more
    reach = reach < step ? step : least(reach, c->optim.steps);
    if (!falls(c))
        return reach == step ? step : 0;
    if (e->by != ENDED_BY_MINUTES && reach >= last)
        return 0;
    if (step < held(e, c)) // it holds
        return step >= reach - fall_of(c, reach) ? reach : 0;
    int64_t off = llabs(reach - last);
    return off > 1 && off > (last - step) / 10 ? reach : 0; // no change for every small change of pace
}

void ending_start(struct ending_clock *clock, const struct ending *e, int64_t step)
{
    *clock = (struct ending_clock){.before = e->seconds, .began = clock_seconds(), .begun = step};
}

void ending_tick(const struct ending_clock *clock, struct ending *e, const struct config *c)
{
    if (c->optim.minutes > 0 && clock->began > 0)
        e->seconds = clock->before + clock_seconds() - clock->began;
}

int64_t ending_clock_wish(const struct ending_clock *clock, struct ending *e, const struct config *c, int64_t step)
{
    if (c->optim.minutes <= 0 || clock->began <= 0)
        return 0;
    ending_tick(clock, e, c);
    double left = 60 * c->optim.minutes - e->seconds, pace = 0;
    if (step - 1 > clock->begun)
        pace = (e->seconds - clock->before) / (double)(step - 1 - clock->begun);
    double steps = left <= 0 ? 0 : left < (double)c->optim.steps * pace ? left / pace : (double)c->optim.steps;
    return ending_wish(e, c, step, step - 1 + (int64_t)steps);
}

void ending_grant(struct ending *e, const struct config *c, int64_t step, int64_t wish)
{
    if (wish > 0)
        plan(e, c, ENDED_BY_MINUTES, step, wish);
}

void ending_resume(struct ending *e, const struct config *c)
{
    double seconds = e->seconds;
    bool time_left = c->optim.minutes <= 0 || seconds < 60 * c->optim.minutes;
    if (e->by == ENDED_BY_MINUTES && time_left && !falls(c))
        *e = (struct ending){.seconds = seconds};
}

/* -------------------------------------------------------------------------------- as text */

void ending_why(char text[ENDING_TEXT], const struct ending *e, const struct config *c)
{
    *text = 0;
    if (e->by == ENDED_BY_PATIENCE)
        snprintf(text, ENDING_TEXT, "optim.patience: %lld look%s without a gain of %.3g %%",
                 (long long)c->optim.patience, c->optim.patience == 1 ? "" : "s", 100 * c->optim.min_gain);
    else if (e->by == ENDED_BY_MINUTES)
        snprintf(text, ENDING_TEXT, "optim.minutes: %g", c->optim.minutes);
}

void ending_log(const struct ending *e, const struct config *c, int64_t step)
{
    char why[ENDING_TEXT];
    ending_why(why, e, c);
    if (e->last == step)
        log_line("%s: the run ends after step %lld of %lld", why, (long long)step, (long long)c->optim.steps);
    else
        log_line("%s: the learning rate falls from step %lld on, and the run ends after %sstep %lld of %lld", why,
                 (long long)step + 1, e->by == ENDED_BY_MINUTES ? "about " : "", (long long)e->last,
                 (long long)c->optim.steps);
}

void ending_text(char text[ENDING_TEXT], const struct ending *e)
{
    snprintf(text, ENDING_TEXT, "by %s, from %lld, last %lld, share %.17g, seconds %.17g", names[e->by],
             (long long)e->from, (long long)e->last, e->share, e->seconds);
}

bool ending_parse(struct ending *e, const char *text)
{
    char by[16], exact[ENDING_TEXT];
    long long from, last;
    struct ending r = {0};
    if (sscanf(text, "by %15[a-z], from %18lld, last %18lld, share %30lf, seconds %30lf", by, &from, &last, &r.share,
               &r.seconds) != 5)
        return false;
    while (r.by < ENDED_BY_MINUTES && strcmp(by, names[r.by]) != 0)
        r.by++;
    r.from = from;
    r.last = last;
    ending_text(exact, &r);
    bool plan = r.by == ENDED_BY_STEPS ? from == 0 && last == 0 && r.share == 0
                                       : from >= 0 && last >= from && r.share >= 0 && r.share <= 1;
    if (strcmp(text, exact) != 0 || !plan || !(r.seconds >= 0 && r.seconds < INFINITY))
        return false;
    *e = r;
    return true;
}
