/* queue/job_folders.h
 *
 * The folders of a queue's jobs: what earlier runs left there is judged before anything runs; a job begins in its folder
 * when a group has taken it.
 */
#ifndef ZOODIP_QUEUE_JOB_FOLDERS_H
#define ZOODIP_QUEUE_JOB_FOLDERS_H

#include "base/error.h"
#include "pipeline/learning.h"
#include "queue/jobs.h"

/* On rank 0, before anything runs, the folders of a file's pending jobs. A job that an earlier run finished stays
 * finished, with what it has learned, whether or not its recipe is the same; which is said. START_OVERWRITE announces
 * that results are to be moved (zo/previous.h). ERROR_BAD_INPUT: a job was begun and not finished, and START_NEW would
 * begin it anew. */
struct error job_folders_judge(struct jobs *jobs);

/* The same for a spool's job when it arrives: it is refused, and the others are not, if another job of its name has left
 * results. One that an earlier run did not finish resumes. */
void job_folder_judge(struct jobs *jobs, struct job *job);

/* How a job begins, for those who look into its folder before: no link may lead them out of the queue's folder. */
enum start job_folder_start(const struct jobs *jobs, const struct job *job);

/* The leader of the group that has taken the job, whose subject has been read: makes its folder and begins there
 * (learning_prepare). */
struct error job_folder_begin(const struct jobs *jobs, struct job *job, struct learning *learning);

/* The job has failed before it began in its folder. Later runs, and runs of other jobs, know a job from its folder only,
 * so its outcome is written there; but not beside results of an earlier run, which it did not continue. After bad input
 * it overwrites nothing. */
void job_folder_fail(const struct jobs *jobs, struct job *job);
void job_folders_fail(struct jobs *jobs); /* of all such jobs, on rank 0 */

/* The job was cancelled before it was handed out: so that it goes on, should it come back, if an earlier run began it. */
void job_folder_cancel(const struct jobs *jobs, const struct job *job);

/* The queue was refused: jobs that have not begun overwrite nothing. */
void job_folder_withdraw(struct job *job);
void job_folders_withdraw(struct jobs *jobs);

#endif
