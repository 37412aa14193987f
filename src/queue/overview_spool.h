/* queue/overview_spool.h
 *
 * A spool as it is seen from outside: which files lie in its folders, and where the results are.
 */
#ifndef ZOODIP_QUEUE_OVERVIEW_SPOOL_H
#define ZOODIP_QUEUE_OVERVIEW_SPOOL_H

#include <stdbool.h>

#include "files/file.h"
#include "queue/overview.h"

/* Whether a folder is a spool's. */
bool overview_is_spool(const char *folder);

/* Who works in it -> all; where results go -> `results`, which need not exist. */
struct error overview_spool_open(struct seen_job *all, char results[PATH_SIZE], const char *folder);

/* Adds the jobs that are not known from the results: those that wait, run, are done or have failed. */
struct error overview_spool_add(struct overview *o, const char *folder, const char *results);

#endif
