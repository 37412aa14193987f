/* cluster/signals.h
 *
 * SIGUSR1, SIGTERM and SIGINT ask a run to finish its step, checkpoint and end with 75. The wish rides with the losses as one
 * more slot of their sum, so that all ranks stop after the same step. A second SIGINT ends the process at once.
 */
#ifndef ZOODIP_CLUSTER_SIGNALS_H
#define ZOODIP_CLUSTER_SIGNALS_H

#include <stdbool.h>

void signals_catch(void);
bool signals_stop_requested(void);

#endif
