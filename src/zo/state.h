/* zo/state.h
 *
 * All that the next step needs: the embedding, Adam's moments, the history and the removed directions, and the basis
 * that the step's directions are mixed from (zo.directions table and text); and the best word so far. Random numbers
 * have addresses, so there is no random state to keep. On disk it is a checkpoint (zo/checkpoint.h); embedding and
 * moments live on the device while a run goes on (zo/step.h).
 */
#ifndef ZOODIP_ZO_STATE_H
#define ZOODIP_ZO_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/slope_noise.h"
#include "cluster/comm.h"
#include "files/safetensors.h"
#include "zo/basis.h"
#include "zo/ending.h"
#include "zo/looks.h"
#include "zo/subspace.h"

struct state {
    int64_t step;             /* steps done, which is also the number of Adam's updates */
    int64_t dim;              /* vectors x width */
    float *embedding, *m, *v; /* [dim]: the word, and Adam's moments (zo/optimizer.h), of which [state_moments] count */
    struct subspace subspace;
    struct basis basis;   /* rank 0: not yet found; dim: what it has or will have, 0 where there is none */
    bool coordinates;     /* zo.directions text: the moments are of the gradient's coordinates in the basis */
    struct ending ending; /* its seconds are rank 0's */
    struct looked looked;
    float *best;              /* [dim]: the word of looked.best_step, if that is not 0 */
    struct slope_noise noise; /* of tangents in codes (zo/guard.h) */
    float *outliers;          /* [outlier_count, 2]: product and channel of each (device.h), which stay out of codes */
    int64_t outlier_count;
};

/* tau and nu as in zo/subspace.h; without a basis, which is for the caller to set. Free with state_free. */
struct error state_new(struct state *s, int64_t dim, int64_t tau, double nu);
void state_free(struct state *s);

/* How many numbers each of Adam's moments has. */
int64_t state_moments(const struct state *s);

/* All ranks get rank 0's state; those of the others were made alike. Collective. */
struct error state_broadcast(struct state *s, struct comm *comm);

/* Whether what happens every `period` steps is due after the state's step; a period of 0: never. */
bool state_due(const struct state *s, int64_t period);

/* The word to keep: the best, or the present one if no look was better than the start's. And the step it is of. */
const float *state_kept(const struct state *s);
int64_t state_kept_step(const struct state *s);

/* The tensors of a state, as a checkpoint names them: embedding, m, v, history, noise (the removed directions), best
 * (the best word), basis, slopes (of struct slope_noise) and outliers, each F32 [rows, dim] (all but the words: their
 * own lengths). Those after the first STATE_ALWAYS are left out of file and checksum while they have no rows. */
enum { STATE_ALWAYS = 5, STATE_BEST = STATE_ALWAYS, STATE_BASIS, STATE_SLOPES, STATE_OUTLIERS, STATE_TENSORS };
void state_tensors(const struct state *s, struct entry tensors[STATE_TENSORS]);

/* Continues a CRC-32 over the tensors' shapes and numbers. */
uint32_t state_crc(uint32_t sum, const struct entry tensors[STATE_TENSORS]);

/* CRC-32 of all tensors, of what looks have found and of when the run ends: ranks compare it to know that they agree. */
uint32_t state_hash(const struct state *s);

#endif
