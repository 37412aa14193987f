/* files/on_end.h
 *
 * A user's program that hears of a run's end (output.on_end): it is started as
 *
 *     PROGRAM FOLDER STATE
 *
 * with the run's folder and "done", "failed", "stopped" or "cancelled", when all files are written and the folder is free
 * for others. A PROGRAM without a slash is looked for on PATH. It runs in a session of its own, so that neither Ctrl-C nor
 * the end of mpirun takes it along, reads nothing, and what it prints goes where this thread's log lines go at that
 * moment. It does not see what a launcher told this rank (OMPI_COMM_WORLD_RANK and the like), so that it may start
 * zoodip, or mpirun, itself.
 *
 * Whatever becomes of it changes nothing in the run: that it cannot be started, ends with another code than 0 or is
 * killed, is a warning. Several may run at a time. Processes are started by posix_spawn, never by fork, which MPI does
 * not allow.
 */
#ifndef ZOODIP_FILES_ON_END_H
#define ZOODIP_FILES_ON_END_H

#include "base/error.h"

/* Seconds to wait at most, at the very end, for those that still run. */
enum { ON_END_SECONDS = 60 };

/* Programs that run. Starts zeroed; owns nothing after on_end_wait. */
struct on_end {
    struct on_end_program *first; /* private */
};

/* Before the run begins: ERROR_BAD_INPUT if there is no such program, or it may not be run. NULL: none is wanted. */
struct error on_end_check(const char *program);

/* Starts the program and returns at once. NULL: does nothing. The texts are copied. */
void on_end_start(struct on_end *programs, const char *program, const char *folder, const char *state);

/* Looks which have ended, and warns of those that failed. Call it now and then; it waits for none. */
void on_end_reap(struct on_end *programs);

/* Waits for the others, so many seconds at most; says which it then leaves to themselves. */
void on_end_wait(struct on_end *programs, double seconds);

#endif
