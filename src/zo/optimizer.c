#include "zo/optimizer.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

struct error optimizer_new(struct optimizer *o, int64_t dim, double beta1, double beta2, double eps)
{
    *o = (struct optimizer){.dim = dim, .beta1 = beta1, .beta2 = beta2, .eps = eps};
    o->m = memory_alloc(dim, sizeof *o->m);
    o->v = memory_alloc(dim, sizeof *o->v);
    if (o->m && o->v)
        return ok();
    optimizer_free(o);
    return error_memory("the optimizer");
}

void optimizer_free(struct optimizer *o)
{
    memory_free(o->m);
    memory_free(o->v);
    *o = (struct optimizer){0};
}

void optimizer_rates(const struct optimizer *o, int64_t step, double lr, double *rate, double *root)
{
    *rate = -lr / (1 - pow(o->beta1, (double)step));
    *root = sqrt(1 - pow(o->beta2, (double)step));
}

/* -------------------------------------------------------------------------------- schedules */

static const double PI = 3.14159265358979323846;

/* A schedule says what fraction of lr is left at `progress` in [0, 1] through the steps after the warmup. */
static double stay(double progress, double lr)
{
    (void)progress;
    (void)lr;
    return 1;
}

static double fall(double progress, double lr)
{
    (void)lr;
    return 1 - progress;
}

static double half_wave(double progress, double lr)
{
    (void)lr;
    return 0.5 * (1 + cos(PI * progress));
}

static double fall_to_end(double progress, double lr)
{
    const double end = 1e-7;
    return ((lr - end) * (1 - progress) + end) / lr;
}

static const struct {
    const char *name;
    int warms_up;
    double (*share)(double progress, double lr);
} schedules[SCHEDULE_COUNT] = {
    [SCHEDULE_CONSTANT] = {"constant", 0, stay},
    [SCHEDULE_CONSTANT_WITH_WARMUP] = {"constant_with_warmup", 1, stay},
    [SCHEDULE_LINEAR] = {"linear", 1, fall},
    [SCHEDULE_COSINE] = {"cosine", 1, half_wave},
    [SCHEDULE_COSINE_WITH_RESTARTS] = {"cosine_with_restarts", 1, half_wave},
    [SCHEDULE_POLYNOMIAL] = {"polynomial", 1, fall_to_end},
};

int schedule_find(const char *name)
{
    for (int i = 0; i < SCHEDULE_COUNT; i++)
        if (strcmp(schedules[i].name, name) == 0)
            return i;
    return -1;
}

double schedule_rate(int schedule, double lr, int64_t step, int64_t steps, int64_t warmup)
{
    int64_t done = step - 1;
    if (schedules[schedule].warms_up && done < warmup)
        return lr * (double)done / (double)warmup;
    double progress = steps > warmup ? (double)(done - warmup) / (double)(steps - warmup) : 0;
    return lr * schedules[schedule].share(progress, lr);
}
