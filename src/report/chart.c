#include "report/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Mean of the last `window` losses that are numbers; none before half a window has passed. */
static void running_mean(double *mean, const double *losses, int64_t count)
{
    int64_t window = count / 20 < 10 ? 10 : count / 20 > 500 ? 500 : count / 20;
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        int64_t used = 0;
        for (int64_t j = i < window ? 0 : i - window + 1; j <= i; j++)
            if (isfinite(losses[j])) {
                sum += losses[j];
                used++;
            }
        mean[i] = used && i + 1 >= window / 2 ? sum / (double)used : NAN;
    }
}

static void add_look(struct chart *chart, int64_t step, double loss)
{
    if (isfinite(loss))
        chart->looks[chart->look_count++] = (struct look){step, loss};
}

static void find_looks(struct chart *chart)
{
    const struct metric_table *lines = &chart->lines;
    if (lines->count > 0 && lines->steps[0] == 1)
        add_look(chart, 0, lines->start);
    for (int64_t i = 0; i < lines->count; i++)
        add_look(chart, lines->steps[i], lines->validations[i]);
    chart->best = chart->look_count > 1 ? 0 : -1;
    for (int64_t i = 1; i < chart->look_count; i++)
        chart->best = chart->looks[i].loss < chart->looks[chart->best].loss ? i : chart->best;
}

static int compare_numbers(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void widen(double *low, double *high, double value)
{
    if (!isfinite(value))
        return;
    *low = fmin(*low, value);
    *high = fmax(*high, value);
}

/* Widens low..high to the range that the y axis must cover. */
static struct error value_range(const struct chart *chart, double *low, double *high)
{
    double *sorted = memory_alloc(chart->lines.count, sizeof *sorted);
    if (!sorted)
        return error_memory("the chart");
    int64_t finite = 0;
    for (int64_t i = 0; i < chart->lines.count; i++)
        if (isfinite(chart->lines.losses[i]))
            sorted[finite++] = chart->lines.losses[i];
    qsort(sorted, (size_t)finite, sizeof *sorted, compare_numbers);
    if (finite) {
        widen(low, high, sorted[finite / 100]);
        widen(low, high, sorted[finite - 1 - finite / 100]);
    }
    memory_free(sorted);
    for (int64_t i = 0; i < chart->lines.count; i++)
        widen(low, high, chart->mean[i]);
    for (int64_t i = 0; i < chart->look_count; i++)
        widen(low, high, chart->looks[i].loss);
    return ok();
}

/* Ticks at multiples of 1, 2 or 5 times a power of ten. `whole`: no smaller than one. */
static void place_ticks(struct axis *axis, double low, double high, bool whole)
{
    if (!(high > low)) { /* one value, or none */
        double middle = isfinite(low) ? low : 0;
        low = middle - (whole ? 1 : fmax(fabs(middle) / 2, 1e-6));
        high = middle + (whole ? 1 : fmax(fabs(middle) / 2, 1e-6));
    }
    double rough = (high - low) / 6, power = pow(10, floor(log10(rough)));
    double share = rough / power, step = power * (share <= 1 ? 1 : share <= 2 ? 2 : share <= 5 ? 5 : 10);
    if (whole && step < 1)
        step = 1;
    double first = whole ? ceil(low / step) : floor(low / step);
    double last = whole ? floor(high / step) : ceil(high / step);
    axis->low = whole ? low : first * step;
    axis->high = whole ? high : last * step;
    axis->decimals = (int)fmin(fmax(0, -floor(log10(step) + 1e-9)), 12);
    axis->tick_count = 0;
    for (double i = first; i <= last && axis->tick_count < CHART_TICKS; i++)
        axis->ticks[axis->tick_count++] = i * step;
}

struct error chart_read(struct chart *chart, const char *folder)
{
    *chart = (struct chart){0};
    TRY(metrics_read(&chart->lines, folder));
    chart->mean = memory_alloc(chart->lines.count, sizeof *chart->mean);
    chart->looks = memory_alloc(chart->lines.count + 1, sizeof *chart->looks);
    if (!chart->mean || !chart->looks) {
        chart_free(chart);
        return error_memory("the chart");
    }
    find_looks(chart);
    if (chart->lines.count == 0)
        return ok();
    running_mean(chart->mean, chart->lines.losses, chart->lines.count);
    double low = INFINITY, high = -INFINITY;
    struct error e = value_range(chart, &low, &high);
    if (e.code != ERROR_NONE) {
        chart_free(chart);
        return e;
    }
    place_ticks(&chart->y, low, high, false);
    double first = INFINITY, last = -INFINITY;
    for (int64_t i = 0; i < chart->lines.count; i++)
        widen(&first, &last, (double)chart->lines.steps[i]);
    place_ticks(&chart->x, first < 2 ? 0 : first, last, true);
    return ok();
}

void chart_free(struct chart *chart)
{
    metric_table_free(&chart->lines);
    memory_free(chart->mean);
    memory_free(chart->looks);
    *chart = (struct chart){0};
}

bool chart_shows(const struct chart *chart, double value)
{
    return value >= chart->y.low && value <= chart->y.high;
}

double axis_part(const struct axis *axis, double value)
{
    return (value - axis->low) / (axis->high - axis->low);
}
