#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "device/backend.h"

void device_watch(struct device *d, bool watch)
{
    d->generation += d->watches != watch;
    d->watches = watch;
    d->watched = 0;
    d->overflow = (struct overflow){0};
}

struct overflow device_overflow(const struct device *d)
{
    return d->overflow;
}

/* The largest magnitude; infinite or NaN if a number is. */
static double largest_of(const float *numbers, int64_t count)
{
    double largest = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(numbers[i]))
            return numbers[i];
        largest = fmax(largest, fabs((double)numbers[i]));
    }
    return largest;
}

/* The same of a tensor, lane by lane. */
static double largest_in(struct device *d, struct tensor t)
{
    int64_t count = t.height * t.width * t.channels;
    float *numbers = memory_alloc(count, sizeof *numbers);
    double largest = 0;
    if (!numbers)
        device_fail(d, error_memory("looking at an op's numbers"));
    for (int64_t lane = 0; numbers && lane < t.lanes && isfinite(largest); lane++) {
        d->ops->read(d, numbers, tensor_lanes(t, lane, 1));
        struct error e = d->ops->wait(d);
        if (e.code != ERROR_NONE)
            device_fail(d, e);
        double of_lane = largest_of(numbers, count);
        largest = of_lane > largest || !isfinite(of_lane) ? of_lane : largest;
    }
    memory_free(numbers);
    return largest;
}

void watch_op(struct device *d, const char *op, struct tensor y, struct tensor x)
{
    if (!d->watches || d->dry || d->error.code != ERROR_NONE || d->overflow.op[0])
        return;
    d->watched++;
    if (isfinite(largest_in(d, y)))
        return;
    double given = largest_in(d, x);
    struct overflow *o = &d->overflow;
    o->largest = isfinite(given) ? given : 0;
    snprintf(o->op, sizeof o->op, "the network's op %lld (%s [%lld, %lld, %lld, %lld])", (long long)d->watched, op,
             (long long)y.lanes, (long long)y.height, (long long)y.width, (long long)y.channels);
}
