/* report/report.h
 *
 * Pages for people: report.html of a run (pictures, curve, timings, config) and one page of a queue's many subjects.
 * Each is self-contained (report/html.h), and everything that comes from a user is escaped.
 */
#ifndef ZOODIP_REPORT_REPORT_H
#define ZOODIP_REPORT_REPORT_H

#include <stdint.h>

#include "base/error.h"
#include "files/picture.h"

/* What a run has to show: the subject's photos, and for every prompt a picture of the word that learning started from
 * above one of the learned word. */
struct report_pictures {
    const struct picture *photos; /* [photo_count] */
    const char *const *names;     /* [photo_count], of the photos */
    int64_t photo_count;
    const char *const *prompts;            /* [prompt_count], "{}" where the word is */
    const struct picture *start, *learned; /* [prompt_count] */
    int64_t prompt_count;
    const char *start_label, *learned_label; /* of their rows */
};

struct report {
    const char *title, *summary; /* summary: a sentence or two, or NULL */
    struct report_pictures pictures;
    const char *const *facts; /* name, value pairs: timings, device, ranks */
    int64_t fact_count;
    const char *config; /* JSON text, shown as it is */
    int64_t last_step;
};

/* FOLDER/report.html. The curve comes from FOLDER/metrics.jsonl; what the word generated while it was learned, from
 * FOLDER/samples (report/film.h), up to last_step. */
struct error report_write(const char *folder, const struct report *report);

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
