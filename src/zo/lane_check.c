#include "zo/lane_check.h"

#include <math.h>

#include "base/clock.h"
#include "base/memory.h"
#include "zo/exchange.h"
#include "zo/finite.h"
#include "zo/rebalance.h"
#include "zo/train.h"

static const double LONG_ENOUGH = 0.3; /* seconds, within which times are taken again; the shortest counts */

enum { PIECES = 4 }; /* of a share that are checked on corners of pictures */

/* A step, and what running it once has told. */
struct trial {
    struct step *step;
    double *slots;  /* [slots of a step] */
    double seconds; /* the processor's, in the shortest run so far: other processes may have the cores, too */
};

/* Runs step 1 without its update. */
static struct error try_lanes(struct training *t, struct trial *trial)
{
    const double notes[NOTES] = {0};
    struct device *d = t->parts.device;
    double began = clock_processor();
    step_put(trial->step, &t->state);
    draws_make(&t->draws, 1);
    TRY(step_evaluate(trial->step, 1, &t->draws, notes, true));
    device_read(d, trial->slots, tensor_lanes(trial->step->slots, 0, t->lanes));
    TRY(device_wait(d));
    trial->seconds = fmin(trial->seconds, clock_processor() - began);
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
static struct error try_both(struct training *t, struct trial *all, struct trial *one, bool measure)
{
    double began = clock_processor(), runs = 0;
    do {
        TRY(try_lanes(t, all));
        TRY(try_lanes(t, one));
        runs++;
    } while (measure && (clock_processor() - began) * (runs + 1) / runs < LONG_ENOUGH);
    return ok();
}

/* The first lane of the share (of tangents, its first tangent and that one's picture) has the same bits alone, first in
 * its batch and last. */
static struct error compare(const struct training *t, const struct trial *both)
{
    const double *all = both[0].slots, *one = both[1].slots;
    const struct evaluator_shape *shape = &both[0].step->lanes.evaluator.shape;
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

static struct error check(struct training *t, struct step *all, struct step *alone, bool measure, double *cost)
{
    double *room = memory_alloc(t->lanes, sizeof *room);
    struct trial both[] = {{all, t->slots, INFINITY}, {alone, room, INFINITY}};
    struct error e = room ? try_both(t, &both[0], &both[1], measure) : error_memory("the losses");
    if (e.code == ERROR_NONE && measure)
        *cost = primal_cost(&t->step.lanes, both[1].seconds, both[0].seconds);
    if (e.code == ERROR_NONE)
        e = finite_losses(t, 1);
    if (e.code == ERROR_NONE)
        e = compare(t, both);
    memory_free(room);
    return e;
}

/* `all`, and the same with its first piece alone. */
static struct error check_step(struct training *t, struct step *all, bool measure, double *cost)
{
    struct step alone;
    TRY(step_new(&alone, &all->parts, all->lanes.sources, &all->shape, (struct share){all->share.first, 1}, false));
    struct error e = check(t, all, &alone, measure, cost);
    step_free(&alone);
    return e;
}

/* A step of few pieces on the corners of pictures, of so many positions a side. */
static struct error check_little(struct training *t, int64_t side)
{
    struct share share = t->step.share;
    struct dataset corners = *t->parts.dataset;
    struct training_parts parts = t->parts;
    struct lane_sources sources = {0};
    struct step little = {0};
    double unused;
    corners.height = corners.width = side;
    corners.weights[0] = corners.weights[1] = NULL; // a corner may well be black
    parts.dataset = &corners;
    share.count = share.count < PIECES ? share.count : PIECES;
    struct error e = lane_sources_new(&sources, &parts);
    if (e.code == ERROR_NONE)
        e = step_new(&little, &parts, &sources, &t->step.shape, share, false);
    if (e.code == ERROR_NONE)
        e = check_step(t, &little, false, &unused);
    step_free(&little);
    lane_sources_free(&sources, parts.device);
    return e;
}

struct error lane_check(struct training *t, double *cost)
{
    const struct dataset *set = t->parts.dataset;
    const struct device *d = t->parts.device;
    int64_t side = (int64_t)1 << t->parts.unet->config.blocks;
    bool host = device_identity(d) == 0 && device_computes(d), large = side < set->height && side < set->width;
    bool measure = comm_rank(t->parts.comm) == 0 && rebalance_needs_cost(t);
    *cost = 0;
    if (t->step.share.count == 0)
        return ok();
    return host && large && !measure ? check_little(t, side) : check_step(t, &t->step, measure, cost);
}
