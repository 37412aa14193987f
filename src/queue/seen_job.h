/* queue/seen_job.h
 *
 * A run, or a queue's job, as it is seen from outside: what its status.json (report/status.h), its job.json or a queue's
 * summary.json (queue/results.h) says. Any of them may have been written by anybody: what a file lacks, or says in
 * another type, is not known, and texts are made safe to show.
 */
#ifndef ZOODIP_QUEUE_SEEN_JOB_H
#define ZOODIP_QUEUE_SEEN_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "files/json_pieces.h"

/* In the order in which one wants to see them. SEEN_GONE is what one that is said to be running is shown as when it is
 * gone; no file says so. */
enum seen { SEEN_RUNNING, SEEN_GONE, SEEN_FAILED, SEEN_STOPPED, SEEN_CANCELLED, SEEN_WAITING, SEEN_DONE, SEEN_UNKNOWN };
enum { SEEN_STATES = SEEN_UNKNOWN };
const char *seen_name(int64_t state);

/* Texts are owned, NULL if not known; so is a count of -1 and a number of NAN. Times are seconds since 1970. */
struct seen_job {
    char *name, *reason, *phase, *host;
    int64_t state; /* enum seen */
    int64_t place; /* in the list that it is from */
    int64_t step, steps, best_step, group, ranks, pid;
    double loss, validation_first, validation_best, evaluations_per_second;
    double seconds_left;                                      /* after seen_judge: from now on */
    double seconds;                                           /* what it took, of one that has ended */
    double submitted, began, since, moved, interval, written; /* as in status.json */
    bool gone;   /* by seen_judge: on this host there is no process of its number any more */
    bool silent; /* by seen_judge: nothing has moved for ten times its interval */
};

/* Of which nothing is known but its name, which may be NULL. Out of memory, the name is not known either. */
struct seen_job seen_job_unknown(const char *name);
void seen_job_free(struct seen_job *job);

/* The files that describe a job. */
enum seen_source { SEEN_STATUS, SEEN_RESULT }; /* status.json; job.json or an item of summary.json */

/* One member of such an object; false if its key is none of a job's. What it does not know leaves what was. */
bool seen_job_take(struct seen_job *job, enum seen_source source, struct json_piece key, struct json_piece value);

/* All members of an object; false if it is none, or is cut short. */
bool seen_job_parse(struct seen_job *job, enum seen_source source, struct json_piece text);

/* FOLDER/NAME, of which a job's file has at most 1 MB; false if there is none that can be read. A file that does not say
 * when it was written was when the disk says so. */
bool seen_job_read(struct seen_job *job, enum seen_source source, const char *folder, const char *name);

/* What a job's folder says about the job of this name: status.json, or else job.json; false if neither can be read, and
 * then there is nothing to free. */
bool seen_job_look(struct seen_job *job, const char *folder, const char *name);

/* Whether one that is said to be running still is, and what is left to do by now, or what it took. */
void seen_judge(struct seen_job *job, double now);

/* After that: its state, or SEEN_GONE. */
enum seen seen_shown(const struct seen_job *job);

/* Has it ended, one way or another? What is stopped may go on. */
bool seen_ended(const struct seen_job *job);

struct cJSON;

/* Adds all that is known to an object, under the names of status.json, and gone and silent. */
void seen_job_add(struct cJSON *object, const struct seen_job *job);

#endif
