#include "zo/rebalance.h"

#include <stdio.h>

#include "base/log.h"
#include "zo/exchange.h"
#include "zo/train.h"

/* Changes the lanes that this rank evaluates. */
static struct error change_share(struct training *t, struct share share)
{
    const struct step_shape shape = t->step.shape;
    TRY(step_get(&t->step, &t->state));
    step_free(&t->step);
    TRY(step_new(&t->step, &t->parts, &t->sources, &shape, share, false));
    step_put(&t->step, &t->state);
    return device_wait(t->parts.device);
}

/* To the balance's shares. Collective. */
static struct error follow(struct training *t)
{
    struct share mine = t->balance.shares[comm_rank(t->parts.comm)], before = t->step.share;
    bool same = mine.first == before.first && mine.count == before.count;
    return comm_agree(t->parts.comm, same ? ok() : change_share(t, mine));
}

struct error rebalance_lanes(struct training *t)
{
    struct balance *b = &t->balance;
    if (exchange_on_devices(t) || !balance_note(b, t->slots + t->lanes + NOTES))
        return ok();
    // once is enough: on busy cores they may change every few steps
    if (comm_rank(t->parts.comm) == 0 && b->changes == 1)
        log_detail(
            "balanced: from step %lld on slower ranks evaluate fewer lanes (a step should take %.0f %% less time)",
            (long long)t->state.step + 1, 100 * b->gain);
    return follow(t);
}

bool rebalance_needs_cost(const struct training *t)
{
    const struct device *d = t->parts.device;
    const struct share_work *work = &t->balance.work;
    bool counts = t->balance.size > 1 && work->group > 1 && work->pieces > work->group;
    return counts && !exchange_on_devices(t) && device_identity(d) == 0 && device_computes(d);
}

struct error rebalance_by_cost(struct training *t, double gamma)
{
    struct comm *comm = t->parts.comm;
    if (t->balance.work.group <= 1 || exchange_on_devices(t))
        return ok();
    double told[] = {comm_rank(comm) == 0 ? gamma : 0, !rebalance_needs_cost(t)};
    TRY(comm_sum(comm, told, sizeof told / sizeof *told));
    if (told[0] <= 0 || told[1] > 0)
        return ok();
    if (comm_rank(comm) == 0)
        log_detail("measured: a picture's loss takes as long as %.2f of its tangents", told[0]);
    balance_set_gamma(&t->balance, told[0]);
    return follow(t);
}

void rebalance_advise(const struct training *t)
{
    const struct share_work *work = &t->balance.work;
    int64_t ranks = t->balance.size, idle = ranks - work->pieces;
    if (work->group == 0 || idle <= 0 || comm_rank(t->parts.comm) != 0 || !device_computes(t->parts.device))
        return;
    char also[128] = "";
    if (idle >= work->pieces / work->group)
        snprintf(also, sizeof also,
                 "; with zo.derivative difference no rank would have more than one lane, and a step would take about "
                 "half the time");
    log_line("%lld of %lld ranks are idle, because a step has only %lld tangents: a larger optim.batch_size or zo.n "
             "uses them%s",
             (long long)idle, (long long)ranks, (long long)work->pieces, also);
}
