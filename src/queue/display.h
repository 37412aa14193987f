/* queue/display.h
 *
 * What rank 0 shows of a queue: a live table on a terminal, plain lines elsewhere, only failed jobs under --quiet, and
 * at the end a table of all jobs, but in JSON. A job's own messages go to its log.txt, so the display writes to the
 * stderr that the process started with.
 */
#ifndef ZOODIP_QUEUE_DISPLAY_H
#define ZOODIP_QUEUE_DISPLAY_H

#include <stdbool.h>

#include "base/error.h"
#include "queue/summary.h"

struct display;

/* `results` is borrowed. Free with display_close, which allows NULL. */
struct error display_open(struct display **d, const struct results *results);
void display_close(struct display *d);

/* Shows a job, if it is time to. Returns whether its state differs from the one last shown. */
bool display_show(struct display *d, struct job *job);

/* The live table for the last time. */
void display_finish(struct display *d);

/* The table of all jobs; written: summary.json and index.html are, so it names them. */
void display_summary(struct display *d, bool written);

#endif
