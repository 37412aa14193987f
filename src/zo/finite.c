#include "zo/finite.h"

#include <math.h>

#include "base/dtype.h"
#include "zo/train.h"

/* The first of count losses that is NaN or beyond what a float holds, or -1. Sums of squares are doubles, in which
 * floats that have overflowed nearly would still pass. */
static int64_t find_bad(const double *losses, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (!isfinite((float)losses[i]))
            return i;
    return -1;
}

static struct error bad_loss(const struct training *t, int64_t k, int rank, const char *what, int64_t picture,
                             double loss)
{
    // the first step and the first validation know only the initializer, not what has been learned
    return error_failed("step %lld: rank %d: the %s of picture %.200s is %s, so nothing of this step is saved; %s",
                        (long long)k, rank, what, t->parts.dataset->paths[picture],
                        isnan(loss) ? "not a number" : "infinite",
                        k > 1 ? "expected finite losses: try a smaller optim.lr"
                              : "the model's weights are too large, or its activations overflow fp16 on a GPU (then "
                                "set quant.activations to bf16)");
}

static bool holds(struct share share, int64_t i)
{
    return i >= share.first && i < share.first + share.count;
}

struct error finite_losses(const struct training *t, int64_t k)
{
    int64_t lane = find_bad(t->slots, t->lanes);
    if (lane < 0)
        return ok();
    int rank = 0;
    while (rank < t->balance.size - 1 && !holds(t->balance.shares[rank], lane))
        rank++;
    return bad_loss(t, k, rank, "loss", t->draws.picture[lane % t->draws.shape.batch], t->slots[lane]);
}

struct error finite_update(const struct training *t, int64_t k)
{
    const struct state *s = &t->state;
    const struct {
        const char *name;
        const void *numbers;
        enum dtype type;
    } made[] = {{"gradient", t->gradient, F64},
                {"first moment", s->m, F32},
                {"second moment", s->v, F32},
                {"embedding", s->embedding, F32}};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        if (!dtype_finite(made[i].numbers, made[i].type, s->dim))
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
    return bad_loss(t, t->state.step, rank, "validation loss", draw % t->parts.dataset->count, v->losses[draw]);
}
