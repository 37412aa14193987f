#include "zo/optimizer.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

struct error optimizer_new(struct optimizer *o, int64_t dim, double beta1, double beta2, double eps)
{
    *o = (struct optimizer){.dim = dim, .beta1 = beta1, .beta2 = beta2, .eps = eps};
    o->m = memory_take(dim, sizeof *o->m);
    o->v = memory_take(dim, sizeof *o->v);
    if (o->m && o->v)
        return ok();
    optimizer_free(o);
    return error_memory("the optimizer");
}

void optimizer_free(struct optimizer *o)
{
    memory_free(o->m);
    memory_free(o->v);
    o->m = o->v = NULL;
}

void optimizer_update(struct optimizer *o, float *embedding, const double *gradient, double lr)
{
    o->step++;
    double bias1 = 1 - pow(o->beta1, (double)o->step), bias2 = 1 - pow(o->beta2, (double)o->step);
    for (int64_t i = 0; i < o->dim; i++) {
        double g = gradient[i];
        double m = o->beta1 * (double)o->m[i] + (1 - o->beta1) * g;
        double v = o->beta2 * (double)o->v[i] + (1 - o->beta2) * g * g;
        o->m[i] = (float)m;
        o->v[i] = (float)v;
        embedding[i] = (float)((double)embedding[i] - lr * (m / bias1) / (sqrt(v / bias2) + o->eps));
    }
}

/* ---------------------------------------------------------------------------------------------------- schedules */

/* Each gives the factor for `step` updates done, as the functions in diffusers/optimization.py do. */
struct moment {
    double step, steps, warmup, lr;
};

static double progress(struct moment m)
{
    double left = m.steps - m.warmup;
    return (m.step - m.warmup) / (left > 1 ? left : 1);
}

static double constant(struct moment m)
{
    (void)m;
    return 1;
}

static double warm(struct moment m)
{
    return m.step < m.warmup ? m.step / (m.warmup > 1 ? m.warmup : 1) : 1;
}

static double linear(struct moment m)
{
    double left = m.steps - m.warmup;
    if (m.step < m.warmup)
        return warm(m);
    return fmax(0, (m.steps - m.step) / (left > 1 ? left : 1));
}

static double cosine(struct moment m)
{
    if (m.step < m.warmup)
        return warm(m);
    return fmax(0, 0.5 * (1 + cos(M_PI * progress(m))));
}

static double cosine_with_restarts(struct moment m)
{
    if (m.step < m.warmup)
        return warm(m);
    if (progress(m) >= 1)
        return 0;
    return fmax(0, 0.5 * (1 + cos(M_PI * fmod(progress(m), 1))));
}

static double polynomial(struct moment m)
{
    const double end = 1e-7;
    if (m.step < m.warmup)
        return warm(m);
    if (m.step > m.steps)
        return end / m.lr;
    double left = 1 - (m.step - m.warmup) / (m.steps - m.warmup);
    return ((m.lr - end) * left + end) / m.lr;
}

static const struct {
    const char *name;
    double (*factor)(struct moment m);
} schedules[SCHEDULE_COUNT] = {
    [SCHEDULE_CONSTANT] = {"constant", constant},
    [SCHEDULE_CONSTANT_WITH_WARMUP] = {"constant_with_warmup", warm},
    [SCHEDULE_LINEAR] = {"linear", linear},
    [SCHEDULE_COSINE] = {"cosine", cosine},
    [SCHEDULE_COSINE_WITH_RESTARTS] = {"cosine_with_restarts", cosine_with_restarts},
    [SCHEDULE_POLYNOMIAL] = {"polynomial", polynomial},
};

int schedule_find(const char *name)
{
    for (int i = 0; i < SCHEDULE_COUNT; i++)
        if (strcmp(name, schedules[i].name) == 0)
            return i;
    return -1;
}

const char *schedule_name(int schedule)
{
    return schedules[schedule].name;
}

double schedule_rate(int schedule, double lr, int64_t step, int64_t steps, int64_t warmup)
{
    const struct moment m = {(double)(step - 1), (double)steps, (double)warmup, lr};
    return lr * schedules[schedule].factor(m);
}
