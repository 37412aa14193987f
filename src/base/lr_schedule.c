#include "base/lr_schedule.h"

#include <math.h>
#include <stddef.h>

/* What share of lr is left at `progress` in [0, 1] through the steps after the warmup. */
typedef double share_at(double progress, double lr);

static double linear(double progress, double lr)
{
    (void)lr;
    return 1 - progress;
}

static double cosine(double progress, double lr)
{
    (void)lr;
    return 0.5 * (1 + cos(M_PI * progress));
}

static double polynomial(double progress, double lr)
{
    const double end = 1e-7; // and power 1
    return ((lr - end) * (1 - progress) + end) / lr;
}

static const struct {
    const char *name;
    bool warms_up;
    share_at *share; /* NULL: all of it */
} schedules[] = {
    {"constant", false, NULL},        {"constant_with_warmup", true, NULL},   {"linear", true, linear},
    {"cosine", true, cosine},         {"cosine_with_restarts", true, cosine}, // one cycle
    {"polynomial", true, polynomial},
};

const char *lr_schedule_name(int schedule)
{
    return schedule < (int)(sizeof schedules / sizeof *schedules) ? schedules[schedule].name : NULL;
}

bool lr_schedule_uses_steps(int schedule)
{
    return schedules[schedule].share != NULL;
}

double lr_schedule_rate(int schedule, double lr, int64_t step, int64_t steps, int64_t warmup)
{
    int64_t done = step - 1;
    if (schedules[schedule].warms_up && done < warmup)
        return lr * (double)done / (double)warmup;
    if (!schedules[schedule].share)
        return lr;
    double progress = steps > warmup ? (double)(done - warmup) / (double)(steps - warmup) : 0;
    return lr * schedules[schedule].share(progress, lr);
}
