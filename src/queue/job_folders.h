/* queue/job_folders.h
 *
 * The folders of a queue's jobs, on rank 0: what earlier runs left in them decides what becomes of each job, before
 * anything runs. A job that is finished is left as it is. One that was begun needs to be told whether to continue or to
 * begin anew. A spool's new job never meets results: its name is taken then.
 */
#ifndef ZOODIP_QUEUE_JOB_FOLDERS_H
#define ZOODIP_QUEUE_JOB_FOLDERS_H

#include "base/error.h"
#include "queue/jobs.h"

/* Marks the pending jobs that are finished as done, and says so; announces those that overwrite (zo/previous.h).
 * ERROR_BAD_INPUT if a job of the file `source` was begun and is to be new; such a job of a spool fails. A folder that
 * another run is writing in is left to job_folders_prepare. */
struct error job_folders_judge(struct jobs *jobs, const char *source);

/* Makes the folders of the pending jobs and begins there (learning_prepare); jobs whose folders cannot be used fail.
 * Writes the outcome of those that have failed already. */
void job_folders_prepare(struct jobs *jobs);

/* The queue was refused: jobs that have not begun overwrite nothing. */
void job_folders_withdraw(struct jobs *jobs);

#endif
