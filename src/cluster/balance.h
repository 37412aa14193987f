/* cluster/balance.h
 *
 * Shares that follow the ranks' speed. Every step each rank tells how long a piece of its work took; every WINDOW steps
 * the shares are worked out anew from the medians, and taken if the step should get noticeably shorter. A median,
 * since a core that others borrow for a moment is none that is slow.
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
    int64_t count;                 /* pieces of a step */
    int size;                      /* ranks */
    int64_t noted;                 /* steps in the window */
    double *times;                 /* [WINDOW][size]: seconds a piece */
    double *pace;                  /* [size]: their medians when the window was last full; all alike before */
    int64_t changes;               /* of the shares so far */
    double gain;                   /* the part of a step's time that the last change should save */
    struct share *shares, *others; /* [size]: in force; room for some more */
};

/* Equal shares of `count` pieces. Free with balance_free, after an error too. */
struct error balance_new(struct balance *b, int64_t count, int size);
void balance_free(struct balance *b);

/* seconds [size]: what a piece took each rank in this step. True: the shares have changed. A rank that has measured
 * nothing tells 0, and then they do not. */
bool balance_note(struct balance *b, const double *seconds);

/* A rank's share of other work, `count` pieces, by the same pace. */
struct share balance_share(struct balance *b, int64_t count, int rank);

#endif
