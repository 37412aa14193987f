/* queue/overview_show.h
 *
 * An overview for people, a line about the whole and a table of the jobs, and for programs, a JSON document.
 */
#ifndef ZOODIP_QUEUE_OVERVIEW_SHOW_H
#define ZOODIP_QUEUE_OVERVIEW_SHOW_H

#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "queue/overview.h"

struct overview_view {
    FILE *out;
    const char *folder; /* as the user named it */
    double now;         /* seconds since 1970, as for overview_read */
    int rows, columns;  /* of a terminal; 0: as many as it takes */
};

/* Lines fit the columns, and jobs that do not fit into the rows are only counted. Returns how many lines. */
int overview_print(const struct overview *o, const struct overview_view *view);

/* Everything, jobs in the same order, times as seconds since 1970. */
struct error overview_print_json(const struct overview *o, const struct overview_view *view);

#endif
