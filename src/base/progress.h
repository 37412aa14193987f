/* base/progress.h
 *
 * Live lines about long work: what is done, how far it is, how long it will take. On a terminal, one line that is
 * redrawn; elsewhere (a log, a pipe, TERM=dumb, JSON), plain lines, at most one every few seconds and one at the end,
 * with the time before each or as objects (base/log.h). Written to stderr.
 *
 *     learning sks [#######.............] 352/1000, loss 0.0214, 110 evaluations/s, 0:12 left (0:07 so far)
 *     encoding pictures [####................] 2/10, 0:28 left (0:07 so far)
 *
 * On a narrow terminal the bar goes first, then the end of the line.
 *
 * Work is either the command's main work, shown from its start, or a phase, which is shown only once it has lasted two
 * seconds, so that quick phases say nothing. Work may begin inside other work and ends before it does; the innermost
 * that is worth showing is shown. A thread draws the lines, so that work is seen to go on, and a phase is named, even
 * while the caller is in a single long piece of it.
 *
 * What is under way, whether this process shows it, and who else wants to hear of it, is what this module keeps, for the
 * whole process. Under --quiet and while muted work is not shown, but known all the same.
 */
#ifndef ZOODIP_BASE_PROGRESS_H
#define ZOODIP_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/* Its fields are private. */
struct progress {
    const char *what, *unit; /* "loading the UNet", "MB" */
    int64_t total, first;    /* steps in all, 0: not known; steps done before this run (a resumed one) */
    int64_t done;
    double work, left, after; /* of progress_weigh; work 0: steps are counted instead */
    bool phase;
    bool terminal, quiet;
    double started, counted, shown; /* when; counted: `done` was last set; shown: the last line */
    bool visible;                   /* has been shown */
    bool waiting;                   /* `done` has not been shown yet */
    char note[200];
    struct progress *outer; /* what this has begun inside of */
};

/* Begins main work. progress_end must follow, whatever happens; until then `p` and `what` stay where they are. */
void progress_begin(struct progress *p, const char *what, int64_t first, int64_t total);

enum { PROGRESS_MEGABYTE = 1000000 }; /* the unit in which bytes are counted, "MB" */

/* Begins a phase of `total` steps, 0 if that cannot be known; unit: what is counted, "" for plain numbers. */
void progress_phase(struct progress *p, const char *what, int64_t total, const char *unit);

/* There will be fewer or more steps in all, before progress_step. */
void progress_aim(struct progress *p, int64_t total);

/* done: steps done in all. note: what else to say, such as "loss 0.0214 (validation 0.0221), 110 evaluations/s"; may be
 * "". Cheap: most calls show nothing. */
void progress_step(struct progress *p, int64_t done, const char *note);

/* For steps that do not all take the same time, before progress_step: the work that this run has done, what is left of
 * it, and what will follow after progress_end, which counts for the time that is left; in any unit. */
void progress_weigh(struct progress *p, double done, double left, double after);

/* Shows the last step if it has not been shown, and ends the line. Call it after work that stopped early, too. */
void progress_end(struct progress *p);

/* Whether work that begins from now on is not shown, for ranks other than 0 and for trials; returns whether it was. */
bool progress_set_muted(bool muted);

/* What is under way, for who shows it elsewhere: "generating pictures 3/8", or "" if it is main work or nothing.
 * *left: seconds, negative if not known. Shown here or not; quick phases are left out. */
enum { PROGRESS_BRIEF = 48 };
void progress_brief(char out[PROGRESS_BRIEF], double *left);

/* The innermost phase, even one that has just begun, or "". */
void progress_phase_now(char out[PROGRESS_BRIEF]);

/* From now on hear(arg) is called after each begin, step and end of work of this thread (of work on others, never);
 * cheap, and no work begins in it. It may do what this thread may, such as MPI calls. At most four at a time, all
 * registered by one thread. progress_unlisten, with the same two, ends that. */
void progress_listen(void (*hear)(void *arg), void *arg);
void progress_unlisten(void (*hear)(void *arg), void *arg);

/* A time in seconds, as live lines show it: 0:07, 12:30, 1:02:03. */
void progress_duration(char out[32], double seconds);

#endif
