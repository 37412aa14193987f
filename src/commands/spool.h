/* commands/spool.h
 *
 * A folder as a queue that has no end. Whoever wants a word learned writes a config and renames it into the folder as
 * NAME.json; zoodip takes it (running/), learns the word into output.dir/NAME, and moves the file to done/ or, with the
 * reason beside it as NAME.txt, to failed/. What lies in running/ at the start was left open and goes on from its
 * checkpoints. Jobs that come while others are learned wait for these: they are the next batch.
 *
 * Only regular files that are not hidden are taken; a job says nothing of where it is written.
 */
#ifndef ZOODIP_COMMANDS_SPOOL_H
#define ZOODIP_COMMANDS_SPOOL_H

#include "commands/batch.h"

/* Runs until a signal, then returns ERROR_PREEMPTED. `defaults`: a config file whose keys hold where a job names no
 * others, or NULL; without an output.dir, results go to FOLDER/out. Collective. */
struct error spool_run(struct batch *b, const char *folder, const char *defaults, const struct option_values *sets);

#endif
