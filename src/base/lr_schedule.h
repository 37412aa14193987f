/* base/lr_schedule.h
 *
 * Learning-rate schedules: a row of one table each, in lr_schedule.c. Allowed values of optim.schedule, help, errors
 * and the rate of every step all follow from it. Equal to diffusers' get_scheduler, with its defaults;
 * warmup_stable_decay, which that lacks, is transformers' with linear falls: after the warmup lr, and over the last
 * `decay` steps lr, lr (decay - 1) / decay, .. lr / decay. Where fewer steps follow the warmup, it falls over those.
 *
 * The table is here, below both of its users, because files/config takes the names from it and zo/ the rates.
 */
#ifndef ZOODIP_BASE_LR_SCHEDULE_H
#define ZOODIP_BASE_LR_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

/* The name of schedule 0, 1, ...; NULL after the last. */
const char *lr_schedule_name(int schedule);

/* Whether the rates depend on how many steps there are in all. */
bool lr_schedule_uses_steps(int schedule);

/* Over how many of its last steps it falls after it was constant: `decay`, or half of them if that is 0, at most all;
 * 0 for a schedule without such a fall. Those before do not depend on how many steps follow. */
int64_t lr_schedule_fall(int schedule, int64_t steps, int64_t decay);

/* Over how many of its first steps it rises: `warmup`, or 0 for a schedule that does not. */
int64_t lr_schedule_rise(int schedule, int64_t warmup);

/* Learning rate of update number `step` (from 1), of `steps` in all: what LambdaLR gives after step - 1 calls of
 * step(). */
double lr_schedule_rate(int schedule, double lr, int64_t step, int64_t steps, int64_t warmup, int64_t decay);

#endif
