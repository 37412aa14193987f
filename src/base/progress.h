/* base/progress.h
 *
 * The live line of long work: step, loss, evaluations/s, time left. On a terminal, one line that is redrawn; elsewhere
 * (a log, a pipe, TERM=dumb), plain lines, at most one every few seconds and one at the end. Written to stderr.
 *
 *     learning sks [#######.............] 352/1000, loss 0.0214, 110 evaluations/s, 0:12 left (0:07 so far)
 *
 * On a narrow terminal the bar goes first, then the end of the line.
 */
#ifndef ZOODIP_BASE_PROGRESS_H
#define ZOODIP_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/* Its fields are private. */
struct progress {
    const char *what;      /* "learning sks" */
    int64_t total, first;  /* steps in all; steps done before this run (a resumed one) */
    bool terminal, quiet;  /* quiet: shows nothing (ranks other than 0, and all under --quiet) */
    double started, shown; /* when; shown: the last line */
    bool waiting;          /* `line` is about a step that has not been shown yet */
    char line[512];
};

void progress_begin(struct progress *p, const char *what, int64_t first, int64_t total, bool quiet);

/* done: steps done in all. note: what else to say, such as "loss 0.0214 (validation 0.0221), 110 evaluations/s"; may be
 * "". Cheap: most calls show nothing. */
void progress_step(struct progress *p, int64_t done, const char *note);

/* Shows the last step if it has not been shown, and ends the line. Call it after work that stopped early, too. */
void progress_end(struct progress *p);

#endif
