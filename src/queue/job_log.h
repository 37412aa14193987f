/* queue/job_log.h
 *
 * While a job runs, messages go to log.txt in its folder, in full even under --quiet. The stderr that the process
 * started with stays open for what concerns more than the job.
 */
#ifndef ZOODIP_QUEUE_JOB_LOG_H
#define ZOODIP_QUEUE_JOB_LOG_H

#include <stdbool.h>

#include "base/error.h"
#include "queue/jobs.h"

struct job_log {
    bool open;
    bool was_quiet;      /* what log_is_quiet was before */
    bool was_muted;      /* the same of progress */
    int original_stderr; /* while it is open */
    bool quiet_inside;   /* between job_log_leave and job_log_return: what log_is_quiet was */
};

/* On the leader of a group. Close it after an error, too; a zeroed one may be closed. */
struct error job_log_open(struct job_log *l, const struct job *job);
void job_log_close(struct job_log *l);

/* Between these two, messages of this thread go where they went before the log was opened. NULL or closed: nothing
 * changes. */
void job_log_leave(struct job_log *l);
void job_log_return(struct job_log *l);

/* Prints a fatal error of this rank to the original stderr, too. */
void job_log_fatal(const struct job_log *l, const struct job *job, int rank, const char *text);

#endif
