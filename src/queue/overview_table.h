/* queue/overview_table.h
 *
 * The jobs of an overview as a table, with what is to be said of one below its row where that is too narrow:
 *
 *     job   state              step       loss  best validation        rate  left/took        since
 *     dog   running        352/1000    0.02140  0.01800 -10.0 %      14.2/s      11:40        22:01  group 1, 4 ranks
 *     mug   failed            0/500          -  -                         -       0:02        21:58
 *         photos/mug: does not exist
 *         log: results/toybox/mug/log.txt
 *
 * On a narrow terminal columns are left out, those first that matter least; the job, its state, step and time stay longest.
 */
#ifndef ZOODIP_QUEUE_OVERVIEW_TABLE_H
#define ZOODIP_QUEUE_OVERVIEW_TABLE_H

#include "queue/overview_show.h"

/* In at most `room` lines (0: as many as it takes); the jobs for which there is none are counted. Returns how many. */
int overview_table_print(const struct overview *o, const struct overview_view *view, int room);

#endif
