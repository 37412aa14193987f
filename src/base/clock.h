/* base/clock.h
 *
 * The time: of the day, and for measuring how long something takes, which no change of the system's clock disturbs.
 */
#ifndef ZOODIP_BASE_CLOCK_H
#define ZOODIP_BASE_CLOCK_H

/* Seconds from some fixed moment, monotonic. */
double clock_seconds(void);

/* Seconds that processors have spent on this process, in all its threads. What a piece of work takes of them does not
 * depend on what else the machine does, as its time by the clock does. */
double clock_processor(void);

/* Seconds since 1970, by the system's clock. */
double clock_date(void);

/* Sleeps for that long, or until a signal arrives. */
void clock_sleep(double seconds);

#endif
