#include "zo/lane_check.h"

#include <math.h>

#include "base/clock.h"
#include "base/memory.h"
#include "zo/exchange.h"
#include "zo/finite.h"
#include "zo/rebalance.h"
#include "zo/train.h"

static const double LONG_ENOUGH = 0.3; /* seconds, within which times are taken again; the shortest counts */

/* What running a step once has told. */
struct trial {
    double *slots;  /* [slots of a step] */
    double seconds; /* the processor's, in the shortest run so far: other processes may have the cores, too */
};

/* Runs step 1 without its update. */
static struct error try_lanes(struct training *t, struct step *step, struct trial *to)
{
    const double notes[NOTES] = {0};
    struct device *d = t->parts.device;
    double began = clock_processor();
    step_put(step, &t->state);
    draws_make(&t->draws, 1);
    TRY(step_evaluate(step, 1, &t->draws, notes, true));
    device_read(d, to->slots, tensor_lanes(step->slots, 0, t->lanes));
    TRY(device_wait(d));
    to->seconds = fmin(to->seconds, clock_processor() - began);
    return ok();
}

/* What a primal costs in tangents, from the seconds of a primal with one tangent (`alone`) and of all batches of a
 * share (`all`). 0 if they do not tell. */
static double primal_cost(const struct lanes *lanes, double alone, double all)
{
    const double least = 0.3, most = 3;
    const struct evaluator_shape *shape = &lanes->evaluator.shape;
    double primals = (double)(lanes->batches * shape->pictures);
    double tangents = (double)(lanes->batches * shape->lanes) - primals;
    double tangent = (all - primals * alone) / (tangents - primals);
    return tangents > primals && tangent > 0 ? fmin(fmax(alone / tangent - 1, least), most) : 0;
}

/* Runs both, and if they are to be measured, as often as fits. */
static struct error try_both(struct training *t, struct trial *all, struct step *alone, struct trial *one, bool measure)
{
    double began = clock_processor(), runs = 0;
    do {
        TRY(try_lanes(t, &t->step, all));
        TRY(try_lanes(t, alone, one));
        runs++;
    } while (measure && (clock_processor() - began) * (runs + 1) / runs < LONG_ENOUGH);
    return ok();
}

/* The first lane of the share (of tangents, its first tangent and that one's picture) has the same bits alone, first in
 * its batch and last. */
static struct error compare(const struct training *t, const double *all, const double *one)
{
    const struct evaluator_shape *shape = &t->step.lanes.evaluator.shape;
    bool tangents = shape->tangents;
    int64_t batch = t->draws.shape.batch, first = t->step.share.first, picture = first / t->draws.shape.n;
    int64_t at_once = shape->lanes - (tangents ? shape->pictures : 0);
    int64_t slot = (tangents ? batch : 0) + first, last = slot + at_once - 1;
    if (one[slot] != all[slot] || all[last] != all[slot])
        return error_failed(
            "%s: a lane's %s depends on the lanes beside it: %.17g alone, %.17g first, %.17g last of %lld",
            device_name(t->parts.device), tangents ? "slope" : "loss", one[slot], all[slot], all[last],
            (long long)at_once);
    if (tangents && one[picture] != all[picture])
        return error_failed("%s: a picture's loss depends on its tangents: %.17g with one, %.17g with %lld",
                            device_name(t->parts.device), one[picture], all[picture], (long long)at_once);
    return ok();
}

static struct error check(struct training *t, struct step *alone, double *room, double *cost)
{
    struct trial all = {t->slots, INFINITY}, one = {room, INFINITY};
    bool measure = comm_rank(t->parts.comm) == 0 && rebalance_needs_cost(t);
    TRY(try_both(t, &all, alone, &one, measure));
    if (measure)
        *cost = primal_cost(&t->step.lanes, one.seconds, all.seconds);
    TRY(finite_losses(t, 1));
    return compare(t, all.slots, one.slots);
}

struct error lane_check(struct training *t, double *cost)
{
    struct share share = t->step.share;
    *cost = 0;
    if (share.count == 0)
        return ok();
    struct step alone;
    TRY(step_new(&alone, &t->parts, &t->sources, &t->step.shape, (struct share){share.first, 1}, false));
    double *room = memory_alloc(t->lanes, sizeof *room);
    struct error e = room ? check(t, &alone, room, cost) : error_memory("the losses");
    step_free(&alone);
    memory_free(room);
    return e;
}
