/* cluster/signals.h
 *
 * A polite way to stop: SIGUSR1, SIGTERM and SIGINT ask for the end of the run, which comes after the step under way,
 * when all is saved. What a rank was asked rides to the others as one more slot in the sum of losses, so that all stop
 * after the same step. A second SIGINT ends the process at once, for a person who will not wait.
 *
 * The request is this program's one variable at file scope: a signal handler has no argument to reach anything else.
 */
#ifndef ZOODIP_CLUSTER_SIGNALS_H
#define ZOODIP_CLUSTER_SIGNALS_H

#include <stdbool.h>

/* From here on the three signals only set the request; before, they have their usual effect. */
void signals_watch(void);

bool signals_stop_requested(void);

/* As one of the signals would: for what other ranks were asked. */
void signals_request_stop(void);

#endif
