/* zo/ending.h
 *
 * When a run ends. It plans to do optim.steps; it may find earlier that it is done:
 *
 *     patience   optim.patience looks (zo/looks.h) brought no gain. All ranks know it from the same looks.
 *     minutes    the time of optim.minutes is over, or will be. Rank 0's clock decides, and its decision reaches the
 *                others with the losses of a step (zo/exchange.h).
 *
 * With a schedule that holds the learning rate and lets it fall over the last steps (lr_schedule_fall) the fall then
 * begins at once, or in time to end with the last minute, and the run ends with it. With any other schedule the run
 * ends.
 *
 *     rate      ______________                       lr
 *                             \                      `from` steps are done; step from + 1 has share lr
 *              ______________  \__  ____________     `last`: the rate would be 0 after it
 *
 * Invariant: last step and rates follow from config and struct ending alone, a part of the state: so they are the same
 * on all ranks and after a resume.
 */
#ifndef ZOODIP_ZO_ENDING_H
#define ZOODIP_ZO_ENDING_H

#include <stdbool.h>
#include <stdint.h>

#include "files/config.h"

enum ended_by { ENDED_BY_STEPS, ENDED_BY_PATIENCE, ENDED_BY_MINUTES };

/* All zero: a run that does optim.steps. The first reason to end stays, even if minutes move the end of patience's
 * fall. */
struct ending {
    int64_t by;         /* enum ended_by */
    int64_t from, last; /* steps: unless by steps, the plan was made after `from` and the run ends after `last` */
    double share;       /* of optim.lr, that step from + 1 begins the fall with */
    double seconds;     /* of learning so far, for optim.minutes; rank 0's clock */
};

/* The last step, as it is planned now. */
int64_t ending_last(const struct ending *e, const struct config *c);

/* The learning rate of a step (from 1). */
double ending_rate(const struct ending *e, const struct config *c, int64_t step);

/* After a look after `step`: the number of looks since the warmup that brought no gain. With optim.decay 0 the fall
 * will be as long as what it follows. */
void ending_patience(struct ending *e, const struct config *c, int64_t step, int64_t without_gain);

/* On rank 0, during `step`: time is left for steps up to `reach`. The last step that is planned from now on; 0: the plan
 * stays. */
int64_t ending_wish(const struct ending *e, const struct config *c, int64_t step, int64_t reach);

/* Rank 0's clock in a run with optim.minutes. */
struct ending_clock {
    double before, began; /* seconds of learning in earlier parts of the run; when this one began, by clock_seconds */
    int64_t begun;        /* the step after which it began */
};

void ending_start(struct ending_clock *clock, const struct ending *e, int64_t step);

/* Brings e->seconds up to date; during `step`, before it is evaluated, ending_wish as the clock and the pace of this
 * part of the run say. Both do nothing without optim.minutes. */
void ending_tick(const struct ending_clock *clock, struct ending *e, const struct config *c);
int64_t ending_clock_wish(const struct ending_clock *clock, struct ending *e, const struct config *c, int64_t step);

/* After `step`, on all ranks: the wish of rank 0; 0 changes nothing. */
void ending_grant(struct ending *e, const struct config *c, int64_t step, int64_t wish);

/* A resumed run may have more minutes than those that ended it. */
void ending_resume(struct ending *e, const struct config *c);

enum { ENDING_TEXT = 200 };

/* Why a run ends before optim.steps, "" if it does not: "optim.patience: 5 looks without a gain of 0.5 %". And a line of
 * the log about what was decided after `step`. */
void ending_why(char text[ENDING_TEXT], const struct ending *e, const struct config *c);
void ending_log(const struct ending *e, const struct config *c, int64_t step);

/* As a checkpoint's metadata have it, and back: false if it is not as ending_text writes it. */
void ending_text(char text[ENDING_TEXT], const struct ending *e);
bool ending_parse(struct ending *e, const char *text);

#endif
