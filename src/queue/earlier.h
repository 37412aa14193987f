/* queue/earlier.h
 *
 * What a queue's summary.json says of jobs that other runs have ended, so that the runs of single jobs do not each read
 * all jobs' folders. What it says counts if the job has not changed since: job.json is older than summary.json by more
 * than what lies between a run's reading the one and writing the other, both by the clock of the disk that holds them;
 * and the job's recipe, here, is the one of which it says so. Everything else is to be read from the job's folder.
 */
#ifndef ZOODIP_QUEUE_EARLIER_H
#define ZOODIP_QUEUE_EARLIER_H

#include <stdbool.h>

#include "files/json.h"
#include "queue/jobs.h"

struct earlier {
    const char *folder; /* of the queue, borrowed; begin with {.folder = ...} */

    /* private */
    bool opened; /* or tried to */
    struct json json;
    double written;
    const struct cJSON *entry; /* of the job in place `at` */
    int64_t at;
};

/* Sets the job's status, if it is known to have ended and nothing has changed since. Jobs are asked for in their order. */
bool earlier_take(struct earlier *e, struct job *job);
void earlier_close(struct earlier *e);

/* What makes an entry of summary.json good for this: which recipe it is about, and when the job was submitted. */
void earlier_mark(struct cJSON *entry, const struct job *job);

#endif
