/* pipeline/learning.h
 *
 * One subject's training, from its folder to its report: what train does once and run does for every job. Before it
 * starts, the subject's pictures must be encoded and the pipeline loaded.
 */
#ifndef ZOODIP_PIPELINE_LEARNING_H
#define ZOODIP_PIPELINE_LEARNING_H

#include "files/claim.h"
#include "pipeline/outlook.h"
#include "pipeline/subject.h"
#include "report/gain.h"
#include "report/status.h"
#include "zo/previous.h"
#include "zo/train.h"

struct learning {
    struct subject *subject; /* borrowed */
    const char *root;        /* no link in output.dir may lead out of this folder; NULL: links there are the user's */
    bool last; /* no other learning follows: the networks make room for the VAE before pictures are generated */
    void (*on_step)(void *arg, const struct metric *metric); /* after every step, on every rank; may be NULL */
    void *arg;

    /* Results, kept up to date while it runs. */
    struct training training;
    struct claim claim;  /* rank 0 of the group: of output.dir */
    int64_t driver_used; /* GPU bytes in use when training ended, by the driver's count */

    double started; /* when learning_run began, by clock_seconds */

    /* private */
    struct outlook outlook;   /* rank 0 of the group */
    struct run_status status; /* the same */
    char *announced;          /* the folder in which previous_announce noted something, until it has begun; or NULL */
};

/* Before anything else is read, on rank 0 of the group only: if output.dir exists, claims it until learning_free (an
 * error if another run has it, files/claim.h), and checks that the run may begin there, or announces that it overwrites
 * (zo/previous.h). */
struct error learning_claim(struct learning *l, const struct config *config, enum start start);

/* On rank 0: the run was refused. If it has not begun, it overwrites nothing. */
void learning_withdraw(struct learning *l);

/* When everything has been checked, on rank 0 of the group only: makes output.dir and claims it, unless that is done,
 * and begins there. A run that resumes is refused if a checkpoint of another origin is there (files/origin.h), provided
 * that its subject is known by now; else learning_run refuses it. If the subject is known, FOLDER/status.json
 * (report/status.h) is written from here on, with all phases of work that this thread begins: `l` stays where it is, and
 * learning_end or learning_free must follow. */
struct error learning_prepare(struct learning *l, const struct config *config, enum start start);

/* On rank 0 of the group, before something is written into output.dir: an error if that is another folder than the
 * claimed one, or if a link leads out of `root`. A folder that was removed is made and claimed again. */
struct error learning_check(struct learning *l);

/* How long to wait for a folder that another run has claimed, in seconds, while the other ranks wait, too. */
double learning_claim_timeout(const struct config *config);

/* Trains, then generates pictures and writes the report. ERROR_PREEMPTED after a signal. Collective in the group; free
 * with learning_free in any case. */
struct error learning_run(struct learning *l, bool resume);

/* What became of the run, for FOLDER/status.json: e is that of the run (stopped: ERROR_PREEMPTED; failed, with its text;
 * or done), unless `state` names another end, such as "cancelled". Once everything has been written and before
 * learning_free; on all ranks, and also if learning_prepare failed or was not called: then it does nothing. A run that
 * ends without it is found as one whose process is gone. */
void learning_end(struct learning *l, struct error e, const char *state);

/* Rank 0: what was gained, in words: from the state, and as far as they agree with it from the metrics; empty before the
 * first look. */
void learning_gain(const struct learning *l, char text[GAIN_TEXT]);
void learning_free(struct learning *l);

#endif
