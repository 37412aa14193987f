#include "zo/coordinates.h"

#include "base/memory.h"
#include "zo/optimizer.h"
#include "zo/train.h"

void coordinates_shape(struct state *s, const struct config *c, int64_t width)
{
    s->coordinates = c->zo.directions == DIRECTIONS_TEXT;
    s->basis.dim = s->coordinates ? s->dim : c->zo.directions == DIRECTIONS_TABLE ? width : 0;
}

/* 0: as the spectrum says. */
static int64_t rank_asked(const struct config *c)
{
    return c->optim.method == METHOD_GAUSS_NEWTON ? c->zo.n : c->zo.rank;
}

int64_t coordinates_rank(const struct state *s, const struct config *c)
{
    if (s->basis.rank > 0 || !s->coordinates)
        return s->basis.rank > 0 ? s->basis.rank : s->basis.dim;
    return rank_asked(c) > 0 ? rank_asked(c) : s->dim;
}

double coordinates_scale(const struct state *s, const struct config *c, int64_t directions)
{
    if (!s->coordinates)
        return optimizer_scale(directions, s->dim, s->subspace.removed_rows);
    // a step of all directions leaves nothing to estimate; where each picture has them, their slopes' mean counts
    return s->basis.rank == c->zo.n ? (double)(directions / c->zo.n) : optimizer_scale(directions, s->basis.rank, 0);
}

/* -------------------------------------------------------------------------------- turning the moments */

static double product(const float *a, const float *b, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Adam's moments in the coordinates of `to`. */
static struct error turn(struct state *s, const struct basis *to)
{
    const struct basis *from = &s->basis;
    double *turned = memory_alloc(2 * to->rank, sizeof *turned);
    if (!turned)
        return error_memory("Adam's moments");
    for (int64_t i = 0; i < to->rank; i++)
        for (int64_t j = 0; j < from->rank; j++) {
            double r = product(to->rows + i * s->dim, from->rows + j * s->dim, s->dim);
            turned[2 * i] += r * (double)s->m[j];
            turned[2 * i + 1] += r * r * (double)s->v[j];
        }
    for (int64_t i = 0; i < to->rank; i++) {
        s->m[i] = (float)turned[2 * i];
        s->v[i] = (float)turned[2 * i + 1];
    }
    memory_free(turned);
    return ok();
}

/* -------------------------------------------------------------------------------- finding a basis */

/* At the word as it stands, in floats: nothing compares it; those after the first one have its rank. */
static struct error find_text(struct training *t)
{
    struct state *s = &t->state;
    const struct config *c = t->parts.config;
    struct basis found = {0};
    int64_t rank = s->basis.rank > 0 ? s->basis.rank : rank_asked(c);
    device_use_codes(t->parts.device, 0);
    struct error e = text_basis_find(&t->finder, s->embedding, c->zo.n, rank, &found);
    guard_use_codes(t);
    if (e.code == ERROR_NONE && s->basis.rank > 0)
        e = comm_agree(t->parts.comm, turn(s, &found));
    if (e.code != ERROR_NONE) {
        basis_free(&found);
        return e;
    }
    basis_free(&s->basis);
    s->basis = found;
    return ok();
}

/* With the rank that the spectrum has. */
static struct error renew_step(struct training *t)
{
    struct step_shape shape = t->step.shape;
    const struct share share = t->step.share;
    bool whole = t->step.whole != NULL;
    shape.rank = t->state.basis.rank;
    step_free(&t->step);
    return step_new(&t->step, &t->parts, &t->sources, &shape, share, whole);
}

/* The ranks must find it in the same batches, so within rank 0's arena: shares of a step are nearly alike. */
static struct error new_finder(struct training *t)
{
    struct comm *comm = t->parts.comm;
    int64_t arena = training_arena(t);
    TRY(comm_broadcast(comm, &arena, sizeof arena, 0));
    return comm_agree(comm, text_basis_new(&t->finder, &t->parts, arena));
}

struct error coordinates_begin(struct training *t)
{
    struct state *s = &t->state;
    bool text = s->coordinates, again = t->parts.config->zo.refresh > 0;
    if (s->basis.dim == 0)
        return ok();
    if (text && (s->basis.rank == 0 || again))
        TRY(new_finder(t));
    if (s->basis.rank > 0 || !device_computes(t->parts.device))
        return ok();
    TRY(text ? find_text(t) : basis_table(&s->basis, &t->parts));
    return s->basis.rank == t->step.shape.rank ? ok() : comm_agree(t->parts.comm, renew_step(t));
}

struct error coordinates_refresh(struct training *t)
{
    struct state *s = &t->state;
    if (!s->coordinates || s->step == 0 || !state_due(s, t->parts.config->zo.refresh))
        return ok();
    TRY(find_text(t));
    step_put(&t->step, s);
    return ok();
}
