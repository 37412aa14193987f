#include "zo/rebalance.h"

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

struct error rebalance_lanes(struct training *t)
{
    struct balance *b = &t->balance;
    int rank = comm_rank(t->parts.comm);
    if (exchange_on_devices(t) || !balance_note(b, t->slots + t->lanes + NOTES))
        return ok();
    if (rank == 0 && b->changes == 1) // once is enough: on busy cores they may change every few steps
        log_detail(
            "balanced: from step %lld on slower ranks evaluate fewer lanes (a step should take %.0f %% less time)",
            (long long)t->state.step + 1, 100 * b->gain);
    struct share mine = b->shares[rank], before = t->step.share;
    bool same = mine.first == before.first && mine.count == before.count;
    return comm_agree(t->parts.comm, same ? ok() : change_share(t, mine));
}
