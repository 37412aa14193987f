#include "zo/finite.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/dtype.h"
#include "zo/train.h"

/* The first of count losses or slopes that is NaN or beyond what a float holds, or -1. Sums of squares are doubles, in
 * which floats that have overflowed nearly would still pass. */
static int64_t find_bad(const double *numbers, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (!isfinite((float)numbers[i]))
            return i;
    return -1;
}

/* Where a loss or a slope is that is not finite. */
struct bad {
    int64_t step;
    int rank;
    const char *loss; /* what kind of loss */
    int64_t picture;
    int64_t direction; /* of its slope; 0: the loss itself */
};

/* Where it came from, if this rank has it. */
static struct overflow find_cause(struct training *t)
{
    struct device *d = t->parts.device;
    device_watch(d, true);
    struct error e = step_repeat(&t->step, t->state.embedding);
    e = error_first(e, device_wait(d));
    struct overflow found = e.code == ERROR_NONE ? device_overflow(d) : (struct overflow){0};
    device_watch(d, false);
    return found;
}

struct advice {
    char text[200];
};

/* What the line ends in. o: the cause, if it is known. */
static struct advice advise(const struct training *t, int64_t step, struct overflow o)
{
    const double HALF_END = 65504;
    bool halves = device_identity(t->parts.device) != 0 && strcmp(t->parts.config->quant.activations, "fp16") == 0;
    struct advice a;
    if (o.op[0] && halves && o.largest > HALF_END)
        snprintf(a.text, sizeof a.text,
                 "%s was given numbers of up to %.3g, and halves end at %g: set quant.activations to bf16", o.op,
                 o.largest, HALF_END);
    else if (step > 1)
        snprintf(a.text, sizeof a.text, "%s%sexpected finite losses: try a smaller optim.lr", o.op,
                 o.op[0] ? " made the first such number; " : "");
    else // the first step and the first validation know only the initializer, not what has been learned
        snprintf(a.text, sizeof a.text,
                 "%s%sthe model's weights are too large, or its activations overflow fp16 on a GPU (then set "
                 "quant.activations to bf16)",
                 o.op, o.op[0] ? " made the first such number; " : "");
    return a;
}

static struct error bad_number(const struct training *t, const struct bad *bad, double number, struct overflow cause)
{
    char along[48] = "";
    if (bad->direction > 0)
        snprintf(along, sizeof along, " along direction %lld", (long long)bad->direction);
    return error_failed("step %lld: rank %d: the %s of picture %.200s%s is %s, so nothing of this step is saved; %s",
                        (long long)bad->step, bad->rank, bad->direction > 0 ? "slope" : bad->loss,
                        t->parts.dataset->paths[bad->picture], along, isnan(number) ? "not a number" : "infinite",
                        advise(t, bad->step, cause).text);
}

static bool holds(struct share share, int64_t i)
{
    return i >= share.first && i < share.first + share.count;
}

struct error finite_losses(struct training *t, int64_t k)
{
    int64_t slot = find_bad(t->slots, t->lanes), batch = t->draws.shape.batch, n = t->draws.shape.n;
    if (slot < 0)
        return ok();
    bool tangents = t->parts.config->zo.derivative == DERIVATIVE_TANGENT, slope = tangents && slot >= batch;
    // with tangents ranks share these out, and a picture's loss comes from its first
    int64_t piece = slope ? slot - batch : tangents ? slot * n : slot;
    int rank = 0;
    while (rank < t->balance.size - 1 && !holds(t->balance.shares[rank], piece))
        rank++;
    struct bad bad = {k, rank, "loss", t->draws.picture[slope ? piece / n : slot % batch], slope ? piece % n + 1 : 0};
    return bad_number(t, &bad, t->slots[slot], find_cause(t));
}

struct error finite_update(const struct training *t, int64_t k)
{
    const struct state *s = &t->state;
    const struct {
        const char *name;
        const void *numbers;
        enum dtype type;
        int64_t count;
    } made[] = {{"gradient", t->gradient, F64, s->dim},
                {"first moment", s->m, F32, state_moments(s)},
                {"second moment", s->v, F32, state_moments(s)},
                {"embedding", s->embedding, F32, s->dim}};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        if (!dtype_finite(made[i].numbers, made[i].type, made[i].count))
            return error_failed("step %lld: rank %d: the %s holds a value that is not a number (or infinite), so "
                                "nothing of this step is saved; expected finite numbers: try a smaller optim.lr",
                                (long long)k, comm_rank(t->parts.comm), made[i].name);
    return ok();
}

struct error finite_validation(struct training *t)
{
    const struct validation *v = &t->validation;
    int64_t draw = find_bad(v->losses, v->evaluations);
    if (draw < 0)
        return ok();
    int rank = 0;
    while (rank < t->balance.size - 1 && !holds(balance_share(&t->balance, v->evaluations, rank), draw))
        rank++;
    struct bad bad = {t->state.step, rank, "validation loss", dataset_validated(t->parts.dataset, draw), 0};
    return bad_number(t, &bad, v->losses[draw], (struct overflow){0});
}
