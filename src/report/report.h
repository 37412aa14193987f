/* report/report.h
 *
 * What a run leaves for people to read: metrics.jsonl (a line a step), TensorBoard events, loss.png, and report.html,
 * one self-contained page (curve as inline SVG, pictures as data URIs, config, timings). Everything that comes from a
 * user is escaped.
 */
#ifndef ZOODIP_REPORT_REPORT_H
#define ZOODIP_REPORT_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "files/picture.h"

struct metric {
    int64_t step;         /* from 1 */
    double loss;          /* mean of the unperturbed slots */
    const double *losses; /* [slots], row-major [direction 0..n, picture] */
    int64_t slots;
    double validation; /* NAN if it was not due */
    double grad_norm;  /* of the projected gradient */
    int64_t removed;   /* directions taken out of this step's gradient */
    double lr;
    double seconds; /* of this step */
    double evaluations_per_second;
};

/* One JSON object per line, numbers with 17 significant digits (they read back as the same double); keys: step, loss,
 * losses, validation_loss (absent if NAN), grad_norm, removed, lr, seconds, evaluations_per_second. NaN and infinity
 * are written as null. */
struct metrics;

/* Opens FOLDER/metrics.jsonl and a TensorBoard file FOLDER/events.out.tfevents.*; with `from_step` > 0 (a resumed run)
 * the lines of steps > from_step are cut off first (by writing a new file and renaming it), as is an incomplete last
 * line; from_step 0 starts over. */
struct error metrics_open(struct metrics **metrics, const char *folder, int64_t from_step);

/* If the disk is full, the line and those that follow it are kept until metrics_flush finds room. The file never holds
 * part of a line. */
struct error metrics_add(struct metrics *metrics, const struct metric *metric);

/* Passes the added lines to the system. Call it before a checkpoint, so that a resumed run finds every line up to it.
 * If someone removed the file or its folder, the next lines go into a new file, and the error says so. */
struct error metrics_flush(struct metrics *metrics);
void metrics_close(struct metrics *metrics);

/* Reads FOLDER/metrics.jsonl back for the curve. Arrays of *count, to be freed with memory_free; validation has NAN
 * gaps. */
struct error metrics_read(const char *folder, int64_t *count, int64_t **steps, double **losses, double **validations,
                          double **seconds);

/* FOLDER/loss.png: loss (points), its running mean (line), validation loss (marks), axes with numbers. */
struct error loss_picture(const char *folder);

struct report_picture {
    const char *caption;
    const struct picture *picture;
};

/* FOLDER/report.html. `config` is JSON text shown as it is; `facts` are name, value pairs (timings, device, ranks). The
 * curve comes from FOLDER/metrics.jsonl. */
struct error report_write(const char *folder, const char *title, const char *config, const char *const *facts,
                          int64_t fact_count, const struct report_picture *pictures, int64_t picture_count);

/* One subject on a queue's page: how its job ended, its curve (from FOLDER/metrics.jsonl) and its pictures
 * (FOLDER/grid.png). Missing files are left out; for unreadable ones the page says why. `link`: the subject's own
 * report, relative to the page, or NULL. */
struct report_subject {
    const char *name, *folder, *link;
    const char *const *facts; /* name, value pairs */
    int64_t fact_count;
};

/* PATH: one self-contained page of many subjects. */
struct error report_subjects(const char *path, const char *title, const struct report_subject *subjects,
                             int64_t subject_count);

#endif
