#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "device/backend.h"

static const double MUCH_LARGER = 6; /* than the median */

/* Of a product with so many channels. */
static int64_t most_outliers(int64_t channels)
{
    return channels / 16 < OUTLIERS ? channels / 16 : OUTLIERS;
}

/* Those of product i that were set. */
static struct error fill(const struct device *d, int64_t i)
{
    struct coded *p = &d->products[i];
    p->known = d->outliers;
    p->count = 0;
    for (int64_t k = 0; k < d->outlier_count; k++) {
        const struct outlier *o = &d->outliers[k];
        if (o->product != i)
            continue;
        bool rises = o->channel > (p->count ? p->outliers[p->count - 1] : -1);
        if (p->count == most_outliers(p->weight->in) || !rises || o->channel >= p->weight->in)
            return error_input("the checkpoint's outliers: channel %lld of product %lld cannot stay out of codes: the "
                               "product has %lld channels, "
                               "and at most %d stay out",
                               (long long)o->channel, (long long)i, (long long)p->weight->in,
                               (int)most_outliers(p->weight->in));
        p->outliers[p->count++] = o->channel;
    }
    return ok();
}

struct coded *coded_product(struct device *d, const struct weight *w)
{
    for (int64_t i = 0; i < d->product_count; i++)
        if (d->products[i].weight == w)
            return &d->products[i];
    struct coded *more = memory_grow(d->products, d->product_count, &d->product_room, sizeof *more);
    if (!more) {
        device_fail(d, error_memory("the list of products"));
        return NULL;
    }
    d->products = more;
    more += d->product_count;
    *more = (struct coded){.weight = w};
    struct error e = fill(d, d->product_count++);
    if (e.code != ERROR_NONE)
        device_fail(d, e);
    return more;
}

static int rising(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The largest of those that are not yet taken, or -1: those taken have rms 0. */
static int64_t largest(const double *rms, int64_t channels, double least)
{
    int64_t at = -1;
    for (int64_t c = 0; c < channels; c++)
        if (rms[c] > least && (at < 0 || rms[c] > rms[at]))
            at = c;
    return at;
}

static int rising_channels(const void *a, const void *b)
{
    return *(const int32_t *)a - *(const int32_t *)b;
}

void find_outliers(struct device *d, struct coded *p, struct tensor x, int64_t lane)
{
    if (!d->finds_outliers || p->known || !d->ops->channel_rms)
        return;
    int64_t channels = x.channels, most = most_outliers(channels);
    double *rms = memory_alloc(2 * channels, sizeof *rms), *sorted = rms + channels;
    if (!rms) {
        device_fail(d, error_memory("a product's outliers"));
        return;
    }
    d->ops->channel_rms(d, rms, x, lane);
    memcpy(sorted, rms, (size_t)channels * sizeof *rms);
    qsort(sorted, (size_t)channels, sizeof *sorted, rising);
    double least = MUCH_LARGER * sorted[channels / 2];
    p->known = true;
    p->count = 0;
    for (int64_t at; least > 0 && p->count < most && (at = largest(rms, channels, least)) >= 0; rms[at] = 0)
        p->outliers[p->count++] = (int32_t)at;
    qsort(p->outliers, (size_t)p->count, sizeof *p->outliers, rising_channels);
    memory_free(rms);
}

void device_number_products(struct device *d)
{
    d->product_count = 0;
}

void device_find_outliers(struct device *d, bool find)
{
    for (int64_t i = 0; i < d->product_count && find; i++)
        d->products[i].known = false, d->products[i].count = 0;
    d->generation += d->finds_outliers != find;
    d->finds_outliers = find;
}

void device_outliers(const struct device *d, struct outlier *to, int64_t *count)
{
    *count = 0;
    for (int64_t i = 0; i < d->product_count; i++)
        for (int64_t k = 0; k < d->products[i].count; k++, ++*count)
            if (to)
                to[*count] = (struct outlier){(int32_t)i, d->products[i].outliers[k]};
}

struct error device_set_outliers(struct device *d, const struct outlier *from, int64_t count)
{
    memory_free(d->outliers);
    d->outlier_count = 0;
    d->outliers = memory_alloc(count, sizeof *d->outliers);
    if (!d->outliers)
        return error_memory("the products' outliers");
    memcpy(d->outliers, from, (size_t)count * sizeof *from);
    d->outlier_count = count;
    d->generation++;
    for (int64_t i = 0; i < d->product_count; i++)
        TRY(fill(d, i));
    return ok();
}
