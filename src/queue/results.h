/* queue/results.h
 *
 * What a queue leaves in its folder: job.json in each job's, and summary.json and index.html about all of them. A run
 * that resumes the queue, and runs of other jobs of the same file, know a job from its job.json.
 */
#ifndef ZOODIP_QUEUE_RESULTS_H
#define ZOODIP_QUEUE_RESULTS_H

#include "base/error.h"
#include "queue/jobs.h"
#include "files/origin.h"

/* FOLDER/job.json: how far the job is, and the CRC-32 of its best and its last word once it is done: an error if one
 * cannot be read. Written by the leader of its group. */
struct error result_write(const struct job *job);
void result_remove(const struct job *job);

/* Sets the job's status from FOLDER/job.json, if there is one, no --overwrite has given it up, and the job's recipe is
 * the same. A job that finished as many steps as are wanted, or ended by itself before (zo/ending.h), and whose word is
 * on the disk as it was then, is done; any other one waits; an external job that is not done is shown as it is there. */
void result_read(struct job *job);

/* Whether FOLDER/job.json, unless an --overwrite has given it up, says that a run finished the job, and the word is
 * there: not at all; as it is wanted now; with another number of steps; or with another recipe. Then the job's status
 * and sources are that run's, and `difference` says what differs (recipe_differs). */
enum finished { UNFINISHED, FINISHED, FINISHED_OTHER_STEPS, FINISHED_OTHERWISE };
enum finished result_finished(struct job *job, char difference[RECIPE_DIFFERENCE]);

/* Loss and seconds of a job, over all its runs, from the metrics in its folder; unchanged without any. */
void result_totals(struct job_status *s, const char *folder);

/* A number as a table shows it: "-" if it is not known. */
const char *result_number(char out[32], int decimals, double value);

/* On rank 0: of all jobs. */
struct results {
    struct jobs *jobs; /* borrowed; the status of external jobs is kept up to date */
    double submitted;  /* when the queue was first started, in seconds since 1970 */
    double began;      /* this run, by clock_seconds */
    int ranks, groups; /* 0 until known */
};

/* continued: whether `submitted` is that of an earlier summary.json, if there is one, instead of now. */
void results_begin(struct results *r, struct jobs *jobs, bool continued);

/* Seconds from a job's submission to its end; NAN while it is pending. */
double results_turnaround(const struct results *r, const struct job *job);

/* summary.json: at the start, so that the time of submission is known whatever happens, and whenever a job ends. */
struct error results_write_summary(struct results *r);

/* summary.json and index.html, at the end. */
struct error results_write(struct results *r);

#endif
