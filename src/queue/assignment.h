/* queue/assignment.h
 *
 * A job on its way from rank 0, which holds the list, to the ranks of a group: its name, its keys, and what rank 0 has
 * found out about its folder, as a JSON text. Each rank makes the job's config of it.
 */
#ifndef ZOODIP_QUEUE_ASSIGNMENT_H
#define ZOODIP_QUEUE_ASSIGNMENT_H

#include "queue/jobs.h"

/* *text: free with memory_free. */
struct error assignment_write(const struct job *job, char **text);

/* The job with its config, its status unknown. `jobs`: where it comes from, on any rank. ERROR_BAD_INPUT if its keys are
 * wrong, which rank 0 has found out before. Free with job_free, after an error too. */
struct error assignment_read(struct job *job, const struct jobs *jobs, const char *text, int64_t index);

#endif
