/* cluster/signals.h
 *
 * A polite way to stop: SIGUSR1, SIGTERM and SIGINT ask the run to finish the current step, save everything and end. A
 * rank passes the request on as one more slot in the sum of losses, so that all stop after the same step. A second
 * SIGINT ends the process at once, for a person who will not wait.
 *
 * The requests are at file scope: a signal handler has no argument through which to reach anything else.
 */
#ifndef ZOODIP_CLUSTER_SIGNALS_H
#define ZOODIP_CLUSTER_SIGNALS_H

#include <stdbool.h>

/* For faults of disks that come as signals, in every command. A file that may not grow further (ulimit -f) gives a write an
 * error, as a full disk does. A file in memory that was cut short, or whose disk is gone, ends the process with
 * ERROR_FAILED and a line that names it. */
void signals_guard_files(void);

/* From here on the three signals only set the request; before this call they have their usual effect. */
void signals_watch(void);

bool signals_stop_requested(void);

/* Sets the request as a signal would, on behalf of another rank that was asked. */
void signals_request_stop(void);

/* For work that is to stop in the same way while the program goes on: signals_should_stop is true for both requests. The
 * second is taken back when that work has ended. */
bool signals_should_stop(void);
void signals_request_cancel(void);
bool signals_cancel_requested(void);
void signals_end_cancel(void);

#endif
