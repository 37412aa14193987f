/* report/metrics.h
 *
 * A run's record, FOLDER/metrics.jsonl: a line a step, written while it learns and read back for its curve and for what
 * is said about it afterwards. The same numbers go to TensorBoard (report/events.h).
 *
 * A line is a JSON object, numbers with 17 significant digits (they read back as the same double); keys: step, loss,
 * losses, slopes, validation_start (the validation loss before the first step; in the first line), validation_loss and
 * best_step (in lines of steps that a validation follows), slope_noise (in lines of steps whose slopes were computed both
 * in codes and in floats), grad_norm, removed, lr, seconds, evaluations_per_second,
 * ended (in the line of the last step, of a run that ended by itself: why). NaN and infinity are written as null.
 *
 * Invariant: the file never holds part of a line, unless the process died while it wrote the last one.
 */
#ifndef ZOODIP_REPORT_METRICS_H
#define ZOODIP_REPORT_METRICS_H

#include <stdint.h>

#include "base/error.h"
#include "files/picture.h"

struct metric {
    int64_t step;         /* from 1 */
    double loss;          /* mean of the unperturbed lanes */
    const double *losses; /* [loss_count]: of all lanes, row-major [direction 0..n, picture]; with tangents those of
                             direction 0 alone */
    const double *slopes; /* [slope_count], row-major [picture, direction 1..n]: derivatives of a picture's loss */
    int64_t loss_count, slope_count;
    double validation;  /* NAN if it was not due */
    int64_t best_step;  /* then: that of the least so far, or 0 if that is the start's */
    double start;       /* the validation loss before the first step, in the first line that knows it; else NAN */
    double slope_noise; /* of tangents in codes, in lines of steps that were compared (zo/guard.h); else NAN */
    double grad_norm;   /* of the projected gradient */
    int64_t removed;    /* directions taken out of this step's gradient */
    double lr;
    double seconds; /* of this step */
    double evaluations_per_second;
    const char *ended; /* why the run ends with this step, if not because all are done; or NULL */
};

struct metrics;

/* Opens FOLDER/metrics.jsonl and a TensorBoard file FOLDER/events.out.tfevents.*; with `from_step` > 0 (a resumed run)
 * the lines of steps > from_step are cut off first (by writing a new file and renaming it), as is an incomplete last
 * line; from_step 0 starts over. */
struct error metrics_open(struct metrics **metrics, const char *folder, int64_t from_step);

/* If the disk is full, the line and those that follow it are kept until metrics_flush finds room. */
struct error metrics_add(struct metrics *metrics, const struct metric *metric);

/* For TensorBoard alone; see events_add_picture. */
struct error metrics_add_picture(struct metrics *metrics, int64_t step, const char *tag, const struct picture *picture);

/* Passes the added lines to the system. Call it before a checkpoint, so that a resumed run finds every line up to it.
 * If someone removed the file or its folder, the next lines go into a new file, and the error says so. */
struct error metrics_flush(struct metrics *metrics);
void metrics_close(struct metrics *metrics);

/* What metrics.jsonl holds: a column for each value that is read back. */
struct metric_table {
    int64_t count;
    int64_t *steps;                         /* [count], owned */
    double *losses, *validations, *seconds; /* [count], owned; NAN where a line has none */
    double start;                           /* the validation loss before the first step; NAN if no line says it */
    char *ended;                            /* of the last line; NULL if it says nothing */
};

/* Reads FOLDER/metrics.jsonl. Nothing is owned after an error. */
struct error metrics_read(struct metric_table *table, const char *folder);
void metric_table_free(struct metric_table *table);

/* The mean loss of the last steps, which differ much from one to the next; NAN without any. */
double metric_table_loss(const struct metric_table *table);

/* The steps whose lines follow one another without a gap from the first line on; both 0 if FOLDER/metrics.jsonl has no
 * lines, or cannot be read. */
void metrics_range(const char *folder, int64_t *first, int64_t *last);

#endif
