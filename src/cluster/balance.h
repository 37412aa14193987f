/* cluster/balance.h
 *
 * Shares that follow the ranks' speed. At every step each rank reports how long its work took per unit of cost
 * (share_cost); every few steps new shares are computed from the medians, and adopted if they should make a step
 * noticeably shorter. Medians, because a core that was busy elsewhere for a moment is not slow.
 *
 * Invariant: ranks that note the same times hold the same shares. Nothing here is collective.
 */
#ifndef ZOODIP_CLUSTER_BALANCE_H
#define ZOODIP_CLUSTER_BALANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cluster/share.h"

struct balance {
    struct share_work work; /* a step's */
    int size;               /* ranks */
    struct share *shares;   /* [size]: of the pieces of a step */
    int64_t changes;        /* of the shares so far */
    double gain;            /* the fraction of a step's time that the last change should save */

    /* private */
    int64_t noted;       /* steps in the window */
    double *times;       /* [WINDOW][size]: seconds a unit of cost */
    double *pace;        /* [size]: their medians when the window was last full; all equal before */
    struct share *spare; /* [size]: room for other shares */
};

/* Shares for equal ranks. Free with balance_free, after an error too. */
struct error balance_new(struct balance *b, const struct share_work *work, int size);
void balance_free(struct balance *b);

/* Groups cost gamma from now on (struct share_work): shares for ranks as fast as they were last known to be. */
void balance_set_gamma(struct balance *b, double gamma);

/* seconds [size]: how long a unit of cost took each rank in this step; 0 from a rank that measured nothing, and then
 * the shares stay. Returns true if the shares have changed. */
bool balance_note(struct balance *b, const double *seconds);

/* A rank's share of other work, `count` pieces of equal cost, at the same speeds. */
struct share balance_share(struct balance *b, int64_t count, int rank);

#endif
