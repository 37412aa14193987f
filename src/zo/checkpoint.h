/* zo/checkpoint.h
 *
 * A run's state (zo/state.h) in one safetensors file `checkpoints/step-N.safetensors`: the tensors embedding, m and v
 * (Adam's moments), history, noise (the removed directions) and, if there are any, best (the best word), basis (of
 * zo.directions), slopes and outliers (zo/guard.h), F32 [rows, dim], and in the metadata format, step, updates (Adam's, always as many as steps), the
 * facts of its origin (files/origin.h), looks (what they have found, zo/looks.h; those of versions before 0.5.0 have
 * none), ending (zo/ending.h, if the run ends otherwise than after optim.steps, or counts its minutes), slope_noise
 * (base/slope_noise.h, if slopes were compared) and crc32, zlib's checksum of all the others.
 *
 * A checkpoint appears whole or not at all (file_write_whole); one that is short, damaged, of another format or origin,
 * or with a number that is infinite or NaN, is never used: resume continues from the newest that is intact.
 */
#ifndef ZOODIP_ZO_CHECKPOINT_H
#define ZOODIP_ZO_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "files/origin.h"
#include "zo/state.h"

/* Writes FOLDER/step-N.safetensors (making the folder) and then removes all but the newest `keep` (0: keeps all). Those
 * of later steps are removed in any case: they are from an abandoned run, and a resume must not pick them up. */
struct error checkpoint_write(const struct state *s, const char *folder, const struct origin *origin, int64_t keep);

/* Reads one file into s (made by state_new with the run's shapes). Errors (ERROR_BAD_INPUT) name the file and what is
 * wrong: cut short, checksum, another format, another origin, another shape. s is unchanged on an error. */
struct error checkpoint_read(struct state *s, const char *path, const struct origin *origin);

/* Reads the newest intact checkpoint of FOLDER; *found is false if there is none. One of a step up to `recorded`, with
 * which the run's metrics end, goes before those of later steps, so that no step is left without its line. Every
 * skipped one is reported through warn(text), and that the device was another. If the newest one has another format or
 * origin, that is an error (ERROR_BAD_INPUT), not a reason to continue with an older one; nor is it a reason to start
 * anew that none can be read now (ERROR_FAILED). */
struct error checkpoint_resume(struct state *s, const char *folder, const struct origin *origin, int64_t recorded,
                               bool *found, void (*warn)(const char *text));

/* Whether that would be refused, apart from the state's shapes: to know it before other work begins. */
struct error checkpoint_check(const char *folder, const struct origin *origin);

/* The recipe (config_recipe) of the newest intact checkpoint in FOLDER, of whatever run -> *recipe; NULL if there is
 * none. memory_free. Errors as above, apart from another origin. */
struct error checkpoint_recipe(const char *folder, char **recipe);

/* Whether FOLDER has a checkpoint that is as it was written, of whatever run. */
bool checkpoint_any(const char *folder);

#endif
