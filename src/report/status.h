/* report/status.h
 *
 * FOLDER/status.json: what a run does now, for who watches it from elsewhere (zoodip status). It is written anew while
 * the run goes on, and for the last time when it ends:
 *
 *     {"name": the folder's, "state": "running", "done", "failed", "stopped" or "cancelled", "reason": of a failure,
 *      "phase": "encoding pictures 3/8" (absent in plain steps), "step", "steps": planned in all, "loss": mean of the
 *      last steps, "validation_first", "validation_best", "best_step", "evaluations_per_second", "seconds_left": of the
 *      run, "ranks", "host", "pid", "began": this start of the run, "since": its state, "moved": when a step or a piece
 *      of a phase last began or ended, "interval": the longest that this takes, at least 5, "written", "version"}
 *
 * Times are seconds since 1970; a number that is not known is null. A state of "running" is a claim of the past: who
 * reads it judges by `moved` and `interval`, and on the same host by `pid`, whether it still holds.
 *
 * Written when something has moved, at most every five seconds, after a change of phase every second, and less often
 * where the last two both took more than a thousandth of the time, but at least every twenty seconds. It is never an
 * error of the run: what could not be written is tried again when it is due the next time.
 */
#ifndef ZOODIP_REPORT_STATUS_H
#define ZOODIP_REPORT_STATUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/progress.h"
#include "files/held.h"

struct run_status {
    /* What it says besides: to be set between run_status_begin and run_status_end. -1 and NAN: not known. */
    int64_t step, steps, best_step;
    double validation_first, validation_best, evaluations_per_second, seconds_left;

    /* private */
    bool open;
    struct held folder;
    char name[256], host[128];
    int ranks;
    double loss; /* the mean over the last `losses` steps */
    int64_t losses;
    double began, since, moved;                       /* seconds since 1970 */
    double moved_at, written_at;                      /* the same by clock_seconds */
    double longest;                                   /* seconds between two moves */
    double cost, cost_before;                         /* seconds that the last write took, and the one before */
    char phase[PROGRESS_BRIEF], told[PROGRESS_BRIEF]; /* now; as it was last written */
};

/* Begins in a folder that is the run's own; the fields above are not known yet. */
void run_status_begin(struct run_status *s, const char *folder, int ranks);

/* The folder was removed and made again. */
void run_status_reopen(struct run_status *s, const char *folder);

/* After a step: its loss. */
void run_status_step(struct run_status *s, int64_t step, double loss);

/* Something has moved: writes if it is due. Cheap. */
void run_status_tick(struct run_status *s);

/* The run has ended in this state; reason: of a failure, else NULL. Writes for the last time. */
void run_status_end(struct run_status *s, const char *state, const char *reason);

/* Writes nothing more. All of these do nothing before run_status_begin, on a struct that is all zero. */
void run_status_close(struct run_status *s);

#endif
