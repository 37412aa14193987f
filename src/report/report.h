/* report/report.h
 *
 * report.html, a run's page for people: pictures, curve, timings, config. It is self-contained (report/html.h), and
 * everything that comes from a user is escaped.
 */
#ifndef ZOODIP_REPORT_REPORT_H
#define ZOODIP_REPORT_REPORT_H

#include <stdint.h>

#include "base/error.h"
#include "files/picture.h"
#include "report/draw_command.h"

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

    const struct draw_command *start_commands, *learned_commands; /* [prompt_count]; NULL: not known */
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

#endif
