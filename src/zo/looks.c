#include "zo/looks.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "zo/finite.h"
#include "zo/train.h"

/* -------------------------------------------------------------------------------- when */

enum { LEAST_DRAWS = 30, MOST_DRAWS = 60, FINE_CURVE = 32, SHARE = 50, SHARE_WITH_PATIENCE = 10 };

static int64_t within(int64_t low, int64_t value, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* Longer runs first get more looks, up to a fine curve, then better ones, then more again. */
struct looks_plan looks_plan_of(const struct config *c, int64_t lanes)
{
    int64_t pays = c->optim.steps * lanes / (c->optim.patience > 0 ? SHARE_WITH_PATIENCE : SHARE);
    struct looks_plan p = {.steps = c->optim.steps, .every = c->output.validate_every};
    p.draws = within(LEAST_DRAWS, pays / FINE_CURVE, MOST_DRAWS);
    p.count = within(1, pays / p.draws - 1, c->optim.steps);
    if (p.every == 0 && pays < 2 * LEAST_DRAWS)
        p.draws = within(1, pays / 2, LEAST_DRAWS);
    return p;
}

int64_t looks_until(const struct looks_plan *p, int64_t step)
{
    if (p->every > 0)
        return step / p->every + (step >= p->steps && step % p->every != 0);
    return step * p->count / p->steps; // less than 2^63: both factors are at most a billion
}

bool looks_due(const struct looks_plan *p, int64_t step)
{
    return looks_until(p, step) > looks_until(p, step - 1);
}

/* -------------------------------------------------------------------------------- what was found */

bool looked_add(struct looked *l, int64_t step, double value, double min_gain)
{
    l->step = step;
    l->newest = value;
    if (value < l->gain_from && value <= l->gain_from - min_gain * fabs(l->gain_from)) {
        l->gain_from = value;
        l->without_gain = 0;
    } else {
        l->without_gain++;
    }
    bool best = value < l->best;
    if (best) {
        l->best = value;
        l->best_step = step;
    }
    return best;
}

#define LOOKED(integer, number)                                                                                        \
    "{\"draws\": " integer ", \"step\": " integer ", \"best_step\": " integer ", \"without_gain\": " integer           \
    ", \"start\": " number ", \"newest\": " number ", \"best\": " number ", \"gain_from\": " number "}"

void looked_text(char text[LOOKED_TEXT], const struct looked *l)
{
    snprintf(text, LOOKED_TEXT, LOOKED("%lld", "%.17g"), (long long)l->draws, (long long)l->step,
             (long long)l->best_step, (long long)l->without_gain, l->start, l->newest, l->best, l->gain_from);
}

bool looked_parse(struct looked *l, const char *text)
{
    long long draws, step, best_step, without_gain;
    char exact[LOOKED_TEXT];
    if (sscanf(text, LOOKED("%18lld", "%lf"), &draws, &step, &best_step, &without_gain, &l->start, &l->newest, &l->best,
               &l->gain_from) != 8)
        return false;
    l->draws = draws;
    l->step = step;
    l->best_step = best_step;
    l->without_gain = without_gain;
    looked_text(exact, l);
    return strcmp(text, exact) == 0 && draws > 0 && best_step >= 0 && step >= best_step && without_gain >= 0 &&
           isfinite(l->start) && isfinite(l->newest) && isfinite(l->best) && isfinite(l->gain_from);
}

/* -------------------------------------------------------------------------------- in a run */

static struct error look_at(struct training *t, const float *word, double *value)
{
    struct share share = balance_share(&t->balance, t->looks.draws, comm_rank(t->parts.comm));
    TRY(validation_loss(&t->validation, word, share, value));
    return finite_validation(t);
}

static void keep_best(struct state *s)
{
    memcpy(s->best, s->embedding, (size_t)s->dim * sizeof *s->best);
}

/* Once: a word that gets much worse is not what anyone wants to wait for. */
static void warn_if_worse(struct training *t)
{
    enum { MUCH = 2 };
    const struct looked *l = &t->state.looked;
    if (t->warned || l->newest <= MUCH * l->start || comm_rank(t->parts.comm) != 0)
        return;
    log_warning("step %lld: the validation loss is %.5f, more than twice the %.5f it began with: the word gets worse; "
                "try a smaller optim.lr",
                (long long)t->state.step, l->newest, l->start);
    t->warned = true;
}

struct error looks_add(struct training *t)
{
    struct state *s = &t->state;
    double value;
    TRY(look_at(t, s->embedding, &value));
    if (looked_add(&s->looked, s->step, value, t->parts.config->optim.min_gain))
        keep_best(s);
    warn_if_worse(t);
    return ok();
}

/* The words of a run that goes on with other draws, or whose checkpoint knows of no looks. */
static struct error look_again(struct training *t)
{
    struct looked *l = &t->state.looked;
    int64_t without_gain = l->without_gain;
    l->best = l->start;
    if (l->best_step > 0)
        TRY(look_at(t, t->state.best, &l->best));
    if (l->best >= l->start)
        l->best_step = 0;
    l->best = fmin(l->best, l->start);
    l->gain_from = l->best;
    TRY(looks_add(t));
    l->without_gain = without_gain;
    return ok();
}

struct error looks_begin(struct training *t)
{
    struct looked *l = &t->state.looked;
    if (l->draws == t->looks.draws)
        return ok();
    if (t->state.step > 0 && comm_rank(t->parts.comm) == 0)
        log_line("looking at the start again, and at the word: the checkpoint has no validations over %lld draws",
                 (long long)t->looks.draws);
    TRY(look_at(t, t->start, &l->start));
    l->draws = t->looks.draws;
    t->start_is_new = true;
    if (t->state.step > 0)
        return look_again(t);
    l->newest = l->best = l->gain_from = l->start;
    return ok();
}
