#include "zo/gauss_newton.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "zo/train.h"

static const double KEPT = 0.9;  /* of h, from step to step: a memory of ten steps */
static const double DOUBT = 3;   /* errors of neighbouring numbers are alike: they tell less than N numbers would */
static const double REACH = 0.5; /* of tau sqrt(n), by which a word of the table differs from another along n rows */

/* Every rank's predictions, to all: each left the others' lanes zero, so the sums are exact. */
static struct error gather(struct training *t)
{
    struct gauss_newton *g = &t->gauss_newton;
    struct comm *comm = t->parts.comm;
    int64_t count = g->lanes * g->numbers;
    device_read(t->parts.device, g->predictions, t->step.predictions);
    TRY(comm_agree(comm, device_wait(t->parts.device)));
    if (comm_size(comm) == 1)
        return ok();
    for (int64_t i = 0; i < count; i++)
        g->sums[i] = (double)g->predictions[i];
    TRY(comm_sum(comm, g->sums, count));
    for (int64_t i = 0; i < count; i++)
        g->predictions[i] = (float)g->sums[i];
    return ok();
}

/* What the places of picture b count, [height, width]; NULL: all alike. */
static const float *weights_of(const struct training *t, int64_t b)
{
    const struct dataset *set = t->parts.dataset;
    return dataset_weights(set, t->draws.flip[b], t->draws.picture[b]);
}

/* How many of a picture's numbers count, each by its weight. */
static double numbers_of(const struct training *t, int64_t b)
{
    const struct dataset *set = t->parts.dataset;
    const float *w = weights_of(t, b);
    double sum = 0;
    for (int64_t k = 0; k < set->height * set->width; k++)
        sum += w ? (double)w[k] : 1;
    return sum * (double)set->channels;
}

/* mean(p^2) of picture b's prediction along direction i = 1..n. Slots are as struct step_slots has them. */
static double curvature(const struct training *t, const struct step_slots *s, int64_t i, int64_t b)
{
    const struct gauss_newton *g = &t->gauss_newton;
    const float *tangent = g->predictions + (s->batch + b * s->n + i - 1) * g->numbers;
    const float *plus = g->predictions + (i * s->batch + b) * g->numbers;
    const float *minus = g->predictions + ((s->sides == 2 ? s->n + i : 0) * s->batch + b) * g->numbers;
    const float *w = weights_of(t, b);
    double unit = s->tangents ? t->parts.text->tangent_scale : (double)s->sides * s->eps, sum = 0;
    for (int64_t k = 0; k < g->numbers; k++) {
        double p = s->tangents ? (double)tangent[k] : (double)plus[k] - (double)minus[k];
        sum += w ? (double)w[k / t->parts.dataset->channels] * p * p : p * p;
    }
    return sum / (unit * unit) / (double)g->numbers;
}

/* h, and the moves c. */
static void choose_moves(struct training *t, const struct step_slots *s)
{
    const struct gauss_newton *g = &t->gauss_newton;
    double tau = t->parts.config->optim.lr, squares = 0, numbers = 0;
    for (int64_t b = 0; b < s->batch; b++)
        numbers += numbers_of(t, b);
    double lambda = DOUBT * step_mean(t->slots, 1, s->batch) / (numbers * tau * tau);
    for (int64_t i = 0; i < s->n; i++) {
        double a = 0, half_slope = step_slope(s, t->slots, i + 1, 0, s->batch) / 2;
        for (int64_t b = 0; b < s->batch; b++)
            a += curvature(t, s, i + 1, b) / (double)s->batch;
        t->state.v[i] = (float)(KEPT * (double)t->state.v[i] + a);
        double known = (double)t->state.v[i] + lambda;
        g->moves[i] = known > 0 ? -half_slope / known : 0; // else nothing moves the prediction, which has no error
        squares += g->moves[i] * g->moves[i];
    }
    double length = sqrt(squares), reach = REACH * tau * sqrt((double)s->n);
    for (int64_t i = 0; i < s->n && length > reach; i++)
        g->moves[i] *= reach / length;
}

/* e += share Ut c, and the gradient Ut slopes. */
static void move(struct training *t, const struct step_slots *slots, double share)
{
    struct state *s = &t->state;
    memset(t->gradient, 0, (size_t)s->dim * sizeof *t->gradient);
    for (int64_t k = 0; k < s->dim; k++) {
        double by = 0;
        for (int64_t i = 0; i < slots->n; i++)
            by += (double)s->basis.rows[i * s->dim + k] * t->gauss_newton.moves[i];
        s->embedding[k] = (float)((double)s->embedding[k] + share * by);
    }
    for (int64_t i = 0; i < slots->n; i++) {
        double slope = step_slope(slots, t->slots, i + 1, 0, slots->batch);
        for (int64_t k = 0; k < s->dim; k++)
            t->gradient[k] += slope * (double)s->basis.rows[i * s->dim + k];
    }
}

struct error gauss_newton_step(struct training *t, double lr)
{
    const struct step_slots slots = step_slots_of(t->parts.config);
    TRY(gather(t));
    choose_moves(t, &slots);
    move(t, &slots, lr / t->parts.config->optim.lr);
    device_write(t->parts.device, t->step.v, t->state.v); // from where step_get reads it
    return ok();
}

/* -------------------------------------------------------------------------------- making, freeing */

struct error gauss_newton_new(struct training *t)
{
    struct gauss_newton *g = &t->gauss_newton;
    const struct training_parts *p = &t->parts;
    if (p->config->optim.method != METHOD_GAUSS_NEWTON)
        return ok();
    *g = (struct gauss_newton){.lanes = t->lanes,
                               .numbers = p->dataset->height * p->dataset->width * p->dataset->channels};
    g->predictions = memory_alloc(g->lanes * g->numbers, sizeof *g->predictions);
    g->sums = memory_alloc(g->lanes * g->numbers, sizeof *g->sums);
    g->moves = memory_alloc(p->config->zo.n, sizeof *g->moves);
    return g->predictions && g->sums && g->moves ? ok() : error_memory("predictions of a step");
}

void gauss_newton_free(struct training *t)
{
    struct gauss_newton *g = &t->gauss_newton;
    memory_free(g->predictions);
    memory_free(g->sums);
    memory_free(g->moves);
    *g = (struct gauss_newton){0};
}
