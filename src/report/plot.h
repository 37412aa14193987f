/* report/plot.h
 *
 * The curve of a run as a picture, for people who open its folder: losses as points, their running mean as a line,
 * validation losses as marks, the best one ringed, axes with numbers. It shows what report.html shows (report/chart.h).
 */
#ifndef ZOODIP_REPORT_PLOT_H
#define ZOODIP_REPORT_PLOT_H

#include "base/error.h"

/* FOLDER/metrics.jsonl -> FOLDER/loss.png. */
struct error plot_write(const char *folder);

#endif
