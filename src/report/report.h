/* report/report.h
 *
 * Pages for people: report.html of a run (curve as inline SVG, pictures as data URIs, config, timings) and one page of
 * a queue's many subjects. Each is self-contained, and everything that comes from a user is escaped.
 */
#ifndef ZOODIP_REPORT_REPORT_H
#define ZOODIP_REPORT_REPORT_H

#include <stdint.h>

#include "base/error.h"
#include "files/picture.h"

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
