/* commands/inspect_jobs.h
 *
 * What `zoodip inspect JOBS.json` shows: how many jobs, the model and the folder that they share, and a line for each,
 * with its number, or why it is wrong; last, how many are wrong. Read as `zoodip run` reads it, in some 30 us a job; photos
 * are looked for, those of the first 10,000 jobs.
 */
#ifndef ZOODIP_COMMANDS_INSPECT_JOBS_H
#define ZOODIP_COMMANDS_INSPECT_JOBS_H

#include <stdbool.h>

#include "base/error.h"
#include "base/text.h"

/* *is: whether a JSON file holds jobs. If so, they are printed on stdout: all, or those that `which` names, each by its
 * number or its name (see jobs_find). */
struct error inspect_jobs(const char *path, const struct text_list *sets, const struct text_list *which, bool *is);

#endif
