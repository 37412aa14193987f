#include "zo/guard.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "zo/exchange.h"
#include "zo/train.h"

static bool on_first_rank(const struct training *t)
{
    return comm_rank(t->parts.comm) == 0;
}

/* -------------------------------------------------------------------------------- outliers */

/* The state's outliers, to the device. */
static struct error set_outliers(struct training *t)
{
    struct state *s = &t->state;
    struct outlier *list = memory_alloc(s->outlier_count, sizeof *list);
    for (int64_t i = 0; i < s->outlier_count && list; i++)
        list[i] = (struct outlier){(int32_t)s->outliers[2 * i], (int32_t)s->outliers[2 * i + 1]};
    struct error e = list ? device_set_outliers(t->parts.device, list, s->outlier_count) : error_memory("outliers");
    memory_free(list);
    return e;
}

/* The device's outliers as numbers [*count, 2], to be freed by the caller. Of the rank with the step's first tangent: what
 * others found depends on how many ranks there are. */
static struct error list_outliers(const struct training *t, double **list, int64_t *count)
{
    bool mine = t->step.share.first == 0 && t->step.share.count > 0;
    struct outlier *found = NULL;
    double all = 0;
    device_outliers(t->parts.device, NULL, count);
    if (mine) {
        found = memory_alloc(*count, sizeof *found);
        all = found ? (double)*count : 0;
        if (found)
            device_outliers(t->parts.device, found, count);
    }
    struct error e = comm_sum(t->parts.comm, &all, 1);
    *count = (int64_t)all;
    *list = memory_alloc(2 * *count, sizeof **list);
    for (int64_t i = 0; i < *count && *list && found; i++) {
        (*list)[2 * i] = found[i].product;
        (*list)[2 * i + 1] = found[i].channel;
    }
    bool room = *list && (found || !mine);
    memory_free(found);
    return error_first(e, room ? ok() : error_memory("outliers"));
}

/* Products of the list, which is sorted by them. */
static int64_t products_of(const float *list, int64_t count)
{
    int64_t products = 0;
    for (int64_t i = 0; i < count; i++)
        products += i == 0 || list[2 * i] != list[2 * i - 2];
    return products;
}

/* Takes what the first comparison has found into the state, and to all devices. */
static struct error share_outliers(struct training *t)
{
    struct state *s = &t->state;
    double *list = NULL;
    int64_t count;
    struct error e = list_outliers(t, &list, &count);
    memory_free(s->outliers);
    s->outliers = memory_alloc(2 * count, sizeof *s->outliers);
    s->outlier_count = s->outliers ? count : 0;
    e = comm_agree(t->parts.comm, error_first(e, s->outliers ? ok() : error_memory("outliers")));
    if (e.code == ERROR_NONE)
        e = comm_sum(t->parts.comm, list, 2 * count);
    for (int64_t i = 0; i < 2 * s->outlier_count && e.code == ERROR_NONE; i++)
        s->outliers[i] = (float)list[i];
    memory_free(list);
    TRY(e);
    if (count > 0 && on_first_rank(t))
        log_line("quant.tangents: %lld channels of %lld products are much larger than others and stay float",
                 (long long)count, (long long)products_of(s->outliers, count));
    return comm_agree(t->parts.comm, set_outliers(t));
}

/* -------------------------------------------------------------------------------- comparing */

void guard_use_codes(const struct training *t)
{
    device_use_codes(t->parts.device, CODES_ALL & ~(int)t->state.noise.fallen);
}

/* Step k's slots by all ranks, in floats. */
static struct error evaluate_exactly(struct training *t, int64_t k)
{
    const double notes[NOTES] = {0};
    struct device *d = t->parts.device;
    draws_make(&t->draws, k);
    device_use_codes(d, 0);
    device_find_outliers(d, t->state.noise.compared == 0);
    struct error e = step_evaluate(&t->step, k, &t->draws, notes, false);
    device_read(d, t->slots, t->step.slots);
    e = error_first(e, device_wait(d));
    device_find_outliers(d, false);
    guard_use_codes(t);
    TRY(comm_agree(t->parts.comm, e));
    return comm_sum(t->parts.comm, t->slots, t->lanes);
}

struct error guard_before(struct training *t, int64_t k)
{
    struct guard *g = &t->guard;
    g->compares = g->watches && slope_noise_due(&t->state.noise, k, t->parts.config->optim.steps, g->families);
    if (!g->compares)
        return ok();
    TRY(evaluate_exactly(t, k));
    training_find_slopes(t, g->exact);
    return t->state.noise.compared == 0 ? share_outliers(t) : ok();
}

static const char *family_name(int64_t family)
{
    return family == CODES_ATTENTION ? "attention" : family == CODES_CONV ? "convolutions" : "linear layers";
}

static void say(const struct training *t, double noise, bool first_verdict, int64_t fell)
{
    if (!on_first_rank(t))
        return;
    if (fell)
        log_warning(
            "quant.tangents: slopes in 8 bits are off by %.1f %%, more than 10 %%: from here on %s take%s floats",
            100 * noise, family_name(fell), fell == CODES_ATTENTION ? "s" : "");
    else if (first_verdict)
        log_line("quant.tangents: slopes in 8 bits are off by %.1f %%", 100 * noise);
}

void guard_after(struct training *t, struct metric *m)
{
    struct slope_noise *n = &t->state.noise;
    bool enough, before;
    m->slope_noise = NAN;
    if (!t->guard.compares)
        return;
    slope_noise_of(n, &before);
    slope_noise_add(n, t->slopes, t->guard.exact, t->parts.config->optim.batch_size * t->parts.config->zo.n);
    m->slope_noise = slope_noise_of(n, &enough);
    int64_t fell = slope_noise_judge(n, t->guard.families);
    guard_use_codes(t);
    say(t, m->slope_noise, enough && !before, fell);
}

/* -------------------------------------------------------------------------------- making, freeing */

enum { FAMILIES = 3 };

struct error guard_begin(struct training *t)
{
    const struct config *c = t->parts.config;
    struct device *d = t->parts.device;
    bool codes = c->zo.derivative == DERIVATIVE_TANGENT && device_tangents(d) == 8;
    double ranks[FAMILIES];
    for (int i = 0; i < FAMILIES; i++)
        ranks[i] = codes && device_code_families(d) >> i & 1;
    TRY(comm_sum(t->parts.comm, ranks, FAMILIES));
    t->guard = (struct guard){0};
    for (int i = 0; i < FAMILIES; i++)
        t->guard.families |= (ranks[i] > 0) << i;
    t->guard.watches = t->guard.families;
    guard_use_codes(t);
    t->guard.exact = memory_alloc(c->optim.batch_size * c->zo.n, sizeof *t->guard.exact);
    return comm_agree(t->parts.comm, t->guard.exact ? set_outliers(t) : error_memory("slopes"));
}

void guard_free(struct training *t)
{
    memory_free(t->guard.exact);
    t->guard = (struct guard){0};
}
