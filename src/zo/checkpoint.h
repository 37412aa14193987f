/* zo/checkpoint.h
 *
 * Everything that the next step needs, in one safetensors file `checkpoints/step-N.safetensors`: embedding, Adam's
 * moments, subspace history and noise directions (F32 tensors [rows, dim]: embedding, m, v, history, noise), and in the
 * metadata format, step, updates (Adam's), recipe (with the seed in it) and crc32, zlib's checksum of all the others.
 * Random numbers have addresses, so there is no random state to keep.
 *
 * A checkpoint appears whole or not at all (file_write_whole); one that is short, damaged or of another recipe is never
 * used: resume takes the newest that checks out.
 */
#ifndef ZOODIP_ZO_CHECKPOINT_H
#define ZOODIP_ZO_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "zo/optimizer.h"
#include "zo/subspace.h"

struct state {
    int64_t step;     /* steps done */
    int64_t dim;      /* vectors x width */
    float *embedding; /* [dim] */
    struct optimizer optimizer;
    struct subspace subspace;
};

struct error state_new(struct state *s, int64_t dim, int64_t tau, double nu, double beta1, double beta2, double eps);
void state_free(struct state *s);

/* CRC-32 of embedding, moments, history and noise rows: ranks compare it to know that they agree. */
uint32_t state_hash(const struct state *s);

/* Writes FOLDER/step-N.safetensors (making the folder) and then removes all but the newest `keep` (0: keeps all). Those
 * of later steps are removed in any case: they are from an abandoned run, and a resume must not pick them up. recipe: a
 * line that must be the same for a resume to make sense. */
struct error checkpoint_write(const struct state *s, const char *folder, const char *recipe, int64_t keep);

/* Reads one file into s (made by state_new with the run's shapes). Errors (ERROR_BAD_INPUT) name the file and
 * what is wrong: cut short, checksum, another recipe, another shape. s is unchanged on an error. */
struct error checkpoint_read(struct state *s, const char *path, const char *recipe);

/* Reads the newest checkpoint of FOLDER that checks out; *found is false if there is none. Every skipped one is
 * reported through warn(text). If the newest one has another recipe, that is an error (ERROR_BAD_INPUT), not a reason
 * to continue with an older one. */
struct error checkpoint_resume(struct state *s, const char *folder, const char *recipe, bool *found,
                               void (*warn)(const char *text));

#endif
