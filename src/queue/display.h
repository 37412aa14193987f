/* queue/display.h
 *
 * What rank 0 shows of a queue (a live table on a terminal, plain lines elsewhere, only failed jobs under --quiet) and
 * what it leaves behind: a table of all jobs, summary.json and index.html. A job's own messages go to its log.txt, so
 * the board writes to the stderr that the process started with.
 */
#ifndef ZOODIP_QUEUE_DISPLAY_H
#define ZOODIP_QUEUE_DISPLAY_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "queue/jobs.h"

struct display_line {
    double shown;  /* when the job's line was last written */
    int64_t state; /* the state it told of */
};

struct display {
    struct jobs *jobs; /* borrowed; their notes are kept here */
    FILE *out;         /* the original stderr */
    bool quiet;        /* shows jobs that fail, and nothing else */
    bool terminal;
    int lines;                    /* of the table on the terminal */
    struct display_line *written; /* [count] */
    double drawn, began;          /* clock_seconds */
    double submitted;             /* when the queue was first started, in seconds since 1970 */
    int groups, ranks;
};

/* submitted: from an earlier summary.json, or 0 for now. Free with display_close. */
struct error display_open(struct display *b, struct jobs *jobs, double submitted);
void display_close(struct display *b);

/* The queue has its folder and groups: writes summary.json, so that the time of submission is known whatever
 * happens. */
struct error display_begin(struct display *b, int ranks, int groups);

/* Records and shows news of a job. For handout_new, with the board as arg. */
void display_hear(void *arg, const struct job_note *note);

/* Shows jobs whose state changed without a note: those that were finished before the queue began. */
void display_refresh(struct display *b);

/* The table of all jobs, summary.json and index.html in the queue's folder. (summary.json is also rewritten whenever a
 * job ends.) */
struct error display_finish(struct display *b);

/* The text of a state, as in summary.json. */
const char *job_state_name(int64_t state);

/* FOLDER/job.json: how a job ended, for a queue that is resumed. Written by the job's leader. */
struct error result_write(const struct job *job);

/* Takes the job's note from FOLDER/job.json, if there is one and the job's recipe is the same. A job that finished as
 * many steps as are wanted is done, any other one waits; another run's job is shown as it is there. */
void result_read(struct job *job);

/* "submitted" of FOLDER/summary.json, or 0. */
double summary_submitted(const char *folder);

#endif
