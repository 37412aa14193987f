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
    bool falls;      /* the share is that of the last steps, before which it is all */
} schedules[] = {
    {"constant", false, NULL, false},
    {"constant_with_warmup", true, NULL, false},
    {"linear", true, linear, false},
    {"cosine", true, cosine, false},
    {"cosine_with_restarts", true, cosine, false}, // one cycle
    {"polynomial", true, polynomial, false},
    {"warmup_stable_decay", true, linear, true},
};

const char *lr_schedule_name(int schedule)
{
    return schedule < (int)(sizeof schedules / sizeof *schedules) ? schedules[schedule].name : NULL;
}

bool lr_schedule_uses_steps(int schedule)
{
    return schedules[schedule].share != NULL;
}

int64_t lr_schedule_fall(int schedule, int64_t steps, int64_t decay)
{
    int64_t fall = decay > 0 ? decay : steps / 2;
    return !schedules[schedule].falls ? 0 : fall < steps ? fall : steps;
}

int64_t lr_schedule_rise(int schedule, int64_t warmup)
{
    return schedules[schedule].warms_up ? warmup : 0;
}

double lr_schedule_rate(int schedule, double lr, int64_t step, int64_t steps, int64_t warmup, int64_t decay)
{
    int64_t done = step - 1, begin = lr_schedule_rise(schedule, warmup);
    int64_t fall = lr_schedule_fall(schedule, steps, decay);
    if (done < begin)
        return lr * (double)done / (double)warmup;
    if (!schedules[schedule].share)
        return lr;
    if (fall > 0 && steps - fall > begin)
        begin = steps - fall;
    double progress = steps > begin && done > begin ? (double)(done - begin) / (double)(steps - begin) : 0;
    return lr * schedules[schedule].share(progress, lr);
}
