#include "zo/lane_check.h"

#include "base/memory.h"
#include "zo/exchange.h"
#include "zo/finite.h"
#include "zo/train.h"

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

struct error lane_check(struct training *t)
{
    struct share share = t->step.share;
    if (share.count == 0)
        return ok();
    struct step alone;
    double *one = memory_alloc(t->lanes, sizeof *one);
    struct error e = one ? try_lanes(t, &t->step, t->slots) : error_memory("the losses");
    if (e.code == ERROR_NONE)
        e = step_new(&alone, &t->parts, &t->sources, &t->step.shape, (struct share){share.first, 1}, false);
    if (e.code == ERROR_NONE) {
        e = try_lanes(t, &alone, one);
        step_free(&alone);
    }
    int64_t lanes = t->step.lanes.evaluator.shape.lanes, last = share.first + lanes - 1;
    double mine = one ? one[share.first] : 0;
    memory_free(one);
    if (e.code == ERROR_NONE)
        e = finite_losses(t, 1);
    if (e.code == ERROR_NONE && (mine != t->slots[share.first] || t->slots[last] != mine))
        e = error_failed(
            "%s: a lane's loss depends on the lanes beside it: %.17g alone, %.17g first, %.17g last of %lld",
            device_name(t->parts.device), mine, t->slots[share.first], t->slots[last], (long long)lanes);
    return e;
}
