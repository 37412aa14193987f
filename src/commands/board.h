/* commands/board.h
 *
 * What rank 0 shows of a queue: a live table on a terminal, plain lines elsewhere (under --quiet only jobs that fail); and what it leaves: a table of all
 * jobs, summary.json and index.html. A job's own messages go to its log.txt, so the board writes to the stderr that the
 * process began with.
 */
#ifndef ZOODIP_COMMANDS_BOARD_H
#define ZOODIP_COMMANDS_BOARD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "commands/jobs.h"

struct board_line {
    double shown;  /* when the job's line was last written */
    int64_t state; /* the state it told of */
};

struct board {
    struct jobs *jobs; /* borrowed; their notes are kept here */
    FILE *out;         /* the stderr of the beginning */
    bool quiet;        /* shows jobs that fail, and nothing else */
    bool terminal;
    int lines;                  /* of the table on the terminal */
    struct board_line *written; /* [count] */
    double drawn, began;        /* clock_seconds */
    double submitted;           /* when the queue first began, in seconds since 1970 */
    int groups, ranks;
};

/* submitted: as an earlier summary.json tells, or 0 for now. Free with board_close. */
struct error board_open(struct board *b, struct jobs *jobs, double submitted);
void board_close(struct board *b);

/* The queue has a folder and its groups: summary.json says when it was submitted, whatever happens to it. */
struct error board_begin(struct board *b, int ranks, int groups);

/* News of a job: keeps and shows it. For queue_new, with the board as arg. */
void board_hear(void *arg, const struct job_note *note);

/* Shows jobs whose state changed without a note: those that were over before the queue began. */
void board_refresh(struct board *b);

/* The table of all jobs, summary.json and index.html in the queue's folder. (summary.json is also written whenever a
 * job ends.) */
struct error board_finish(struct board *b);

/* The text of a state, as in summary.json. */
const char *job_state_name(int64_t state);

/* FOLDER/job.json: what became of a job, so that a queue that goes on knows. Written by the job's leader. */
struct error result_write(const struct job *job);

/* The job's note becomes what FOLDER/job.json says, where there is one and the job's recipe is the same. A job that is
 * done with as many steps as are wanted is done, any other waits; another run's is shown as it stands there. */
void result_read(struct job *job);

/* "submitted" of FOLDER/summary.json, or 0. */
double summary_submitted(const char *folder);

#endif
