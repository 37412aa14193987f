/* report/chart.h
 *
 * The curve of a run, ready to be drawn: the losses of metrics.jsonl, their running mean, the best validation loss, and
 * axes with rounded ticks. loss.png and the page's SVG show the same chart.
 *
 * Single losses scatter (each has its own picture, noise and timestep), so the y axis spans 98 % of them and all of the
 * mean and the validation losses; points outside are left out.
 */
#ifndef ZOODIP_REPORT_CHART_H
#define ZOODIP_REPORT_CHART_H

#include <stdbool.h>
#include <stdint.h>

#include "report/metrics.h"

enum { CHART_TICKS = 12 };

struct axis {
    double low, high;
    double ticks[CHART_TICKS];
    int tick_count;
    int decimals; /* needed to distinguish the ticks */
};

/* A validation loss, that of the word that the run began with at step 0. */
struct look {
    int64_t step;
    double loss;
};

struct chart {
    struct metric_table lines;
    double *mean;       /* [lines.count], NAN where there is none */
    struct look *looks; /* [look_count], in order */
    int64_t look_count;
    int64_t best; /* the look with the least loss, of equal ones the first; -1: there are not two to compare */
    struct axis x, y;
};

/* Reads FOLDER/metrics.jsonl. A run without steps gives an empty chart (no lines). */
struct error chart_read(struct chart *chart, const char *folder);
void chart_free(struct chart *chart);

/* Whether a value is a number within the y axis. */
bool chart_shows(const struct chart *chart, double value);

/* The fraction of the axis below a value, 0 to 1. */
double axis_part(const struct axis *axis, double value);

#endif
