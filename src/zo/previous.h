/* zo/previous.h
 *
 * The results that a run finds in its folder, and what becomes of them. A new run refuses to begin there; one that
 * resumes goes on with them; with --overwrite they are moved to previous/ in that folder, and removed when the new run
 * has a checkpoint on the disk. So at any moment the folder holds the old word, or a checkpoint of the new run.
 *
 * Results are known by their names; whatever else lies in the folder stays where it is. An empty file is no result. In
 * previous/ a hidden file says how far it is:
 *
 *     .moving      the old results are to be moved: those that are still in the folder are given up, too
 *     .moved       the new run has no checkpoint yet
 *     .removing    it has one: previous/ is not needed any more
 *
 * Each is the one before, renamed. A previous/ without any of them is somebody else's and is left alone.
 *
 * Functions that change a folder need its claim (files/claim.h).
 */
#ifndef ZOODIP_ZO_PREVIOUS_H
#define ZOODIP_ZO_PREVIOUS_H

#include <stdbool.h>

#include "base/error.h"

/* How a run begins where results may lie. */
enum start { START_NEW, START_RESUME, START_OVERWRITE };

/* Whether FOLDER or its previous/ holds results. A folder that cannot be opened holds none; one whose disk then fails
 * does. */
bool previous_found(const char *folder);

/* May a run begin in FOLDER? ERROR_BAD_INPUT if there are results and START_NEW, or if they cannot be moved because
 * previous/ is somebody else's. Changes nothing. */
struct error previous_check(const char *folder, enum start start);

/* Checks it for START_OVERWRITE, and notes that results are to be moved: if the run is killed before it begins, the next
 * one moves them, whether it overwrites or resumes. *announced: whether there are any, and nobody had noted it. */
struct error previous_announce(const char *folder, bool *announced);

/* The run does not begin after all: takes back what it announced. */
void previous_withdraw(const char *folder);

/* Whether results outside previous/ are to be moved there, and count no more. */
bool previous_given_up(const char *folder);

/* Checks it and begins: what an earlier run was about to move or remove is moved or removed; START_OVERWRITE leaves no
 * result outside previous/. Files of a run that has no checkpoint never replace those in previous/. */
struct error previous_begin(const char *folder, enum start start);

/* The run in FOLDER has a checkpoint: removes previous/, if --overwrite made it. */
struct error previous_remove(const char *folder);

/* Whether previous/ holds results until the run in FOLDER has a checkpoint. */
bool previous_kept(const char *folder);

#endif
