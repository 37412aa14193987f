/* queue/spool.h
 *
 * A folder as a queue without end. To have a word learned, write a config and rename it into the folder as NAME.json;
 * zoodip moves it to running/, learns the word into output.dir/NAME, and moves the file to done/ or, with the reason in
 * NAME.txt beside it, to failed/, as soon as that job has ended. A free group takes the file that came first (of more
 * than a thousand at a time, those first by name). Files found in running/ at the start were interrupted and continue
 * from their checkpoints. A job whose file is taken out of running/ is cancelled: it stops after its step, with a
 * checkpoint, and goes on if the file is put into the spool again.
 *
 * Only regular files that are not hidden are taken; a job cannot choose its output folder. Nothing that lies in the folder
 * ends it (queue/inbox.h), nor does a full disk: a job that cannot write stays in running/, and is tried again once there
 * is room, after pauses of a second to a minute.
 */
#ifndef ZOODIP_QUEUE_SPOOL_H
#define ZOODIP_QUEUE_SPOOL_H

#include "queue/queue.h"

/* Runs until a signal, then returns ERROR_PREEMPTED. comm: the queue's. `defaults`: a config file with the keys that
 * jobs leave out, or NULL; without an output.dir in it, results go to FOLDER/out. Collective. */
struct error spool_run(struct queue *q, struct comm *comm, const char *folder, const char *defaults,
                       const struct text_list *sets);

#endif
