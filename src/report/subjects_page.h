/* report/subjects_page.h
 *
 * A queue's page, for those who watch it: what has failed, and a table with a row for each subject, in which one can
 * sort and search. One file that works from a disk as from a server: it loads nothing but the rows' small pictures, and
 * its policy lets it run nothing but its own script, without which the whole table is still there. While the queue
 * runs it loads itself anew now and then, and stays sorted as it was.
 *
 * Everything that comes from a user is escaped. A number that is not known is NAN, a text NULL.
 */
#ifndef ZOODIP_REPORT_SUBJECTS_PAGE_H
#define ZOODIP_REPORT_SUBJECTS_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct subject_row {
    const char *name;   /* also that of its folder, beside the page */
    const char *state;  /* "waiting", "running", "done", "failed", "stopped" or "cancelled" */
    const char *reason; /* of one that failed */
    const char *ended;  /* why it did fewer steps than were wanted */
    const char *phase;  /* what a running one does besides steps: "encoding pictures 3/8" */
    const char *where;  /* who works on a running one: "group 2" */
    const char *link;   /* a file in its folder that says more: "report.html" */
    bool thumbnail;     /* its folder has thumbnail.jpg (report/thumbnail.h) */
    double step, steps; /* done, and wanted */
    double left;        /* seconds, of a running one */
    double first, best; /* validation losses: the start's, and the smallest after it */
    double best_step;   /* 0: none was smaller than the start's */
    double seconds;     /* in steps; of a running one since it began */
    double turnaround;  /* seconds from its submission to its end */
};

struct subjects_page {
    const char *name;         /* of the queue */
    bool running;             /* it still is, so the page changes */
    double written;           /* now, in seconds since 1970 */
    double seconds, left;     /* of the queue */
    int ranks, groups;        /* 0: not known */
    struct subject_row *rows; /* [count], in the file's order */
    int64_t count;
};

/* The most rows that a page has: running subjects and failed ones go first, then the others in the file's order. */
enum { SUBJECTS_PAGE_ROWS = 10000 };

/* PATH, whole or not at all. */
struct error subjects_page_write(const char *path, const struct subjects_page *page);

#endif
