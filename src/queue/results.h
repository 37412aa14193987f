/* queue/results.h
 *
 * What a queue leaves in a job's folder besides what train does: job.json, from which a run that resumes the queue, and
 * runs of other jobs of the same file, know the job.
 */
#ifndef ZOODIP_QUEUE_RESULTS_H
#define ZOODIP_QUEUE_RESULTS_H

#include <stdbool.h>

#include "base/error.h"
#include "files/origin.h"
#include "queue/jobs.h"

/* FOLDER/job.json: how far the job is, and the CRC-32 of its best and its last word once it is done: an error if one
 * cannot be read. Written by the leader of its group. */
struct error result_write(const struct job *job);
void result_remove(const struct job *job);

/* Sets the job's status from FOLDER/job.json, if there is one, no --overwrite has given it up, and the job's recipe is
 * the same. A job that finished as many steps as are wanted, or ended by itself before (zo/ending.h), and whose word is
 * on the disk as it was then, is done; any other one waits; an external job that is not done is shown as it is there. */
void result_read(struct job *job);

struct json;

/* What a file that holds the same keys, and may hold anything else, says about a job of that place in the list. */
struct job_status result_status(int64_t job, struct json *json);

/* Whether FOLDER/job.json, unless an --overwrite has given it up, says that a run finished the job, and the word is
 * there: not at all; as it is wanted now; with another number of steps; or with another recipe. Then the job's status
 * and sources are that run's, and `difference` says what differs (recipe_differs). */
enum finished { UNFINISHED, FINISHED, FINISHED_OTHER_STEPS, FINISHED_OTHERWISE };
enum finished result_finished(struct job *job, char difference[RECIPE_DIFFERENCE]);

/* Whether FOLDER/job.json says that a run of this recipe was begun there and is not done. */
bool result_unfinished(const struct job *job);

/* Loss and seconds of a job, over all its runs, from the metrics in its folder; unchanged without any. */
void result_totals(struct job_status *s, const char *folder);

struct cJSON;

/* What summary.json says about a job, and job.json, too. NULL or incomplete when out of memory. */
struct cJSON *result_json(const struct job *job);

/* A number as a table shows it: "-" if it is not known. */
const char *result_number(char out[32], int decimals, double value);

#endif
