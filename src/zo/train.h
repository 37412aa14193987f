/* zo/train.h
 *
 * ZOODiP's training, step by step (arXiv 2503.14868, section 4). train.c reads as the algorithm: draw, add noise to
 * pictures, perturb, evaluate a share of the lanes, exchange the losses, estimate, project, update, validate, save.
 *
 * Invariant: after every step all ranks hold the same state, bit for bit, on any number of ranks and threads.
 */
#ifndef ZOODIP_ZO_TRAIN_H
#define ZOODIP_ZO_TRAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cluster/balance.h"
#include "zo/basis.h"
#include "zo/draws.h"
#include "zo/gauss_newton.h"
#include "zo/guard.h"
#include "zo/lanes.h"
#include "zo/looks.h"
#include "zo/parts.h"
#include "zo/records.h"
#include "zo/state.h"
#include "zo/step.h"
#include "zo/validate.h"

struct training_calls;

struct training {
    struct training_parts parts;
    struct state state;      /* its moments are up to date after step_get */
    int64_t lanes;           /* of a step: (sides n + 1) x batch, with tangents too */
    struct looks_plan looks; /* when validations are due; what they found is in the state */
    double seconds;          /* in steps, this run */

    /* private to zo/ */
    struct draws draws;
    struct lane_sources sources;
    struct step step;
    struct text_basis finder; /* of zo.directions text */
    struct gauss_newton gauss_newton;
    struct guard guard;
    double lr;              /* of the step that goes on */
    struct balance balance; /* which rank evaluates which lanes, or tangents */
    double *slots;          /* losses and slopes [lanes] (struct step_slots), after them the notes (zo/exchange.h) */
    double *slopes;         /* [batch n]: of the newest step, see training_find_slopes */
    double *gradient;       /* [dim] */
    struct validation validation;
    float *start;      /* [dim]: the word before the first step */
    bool start_is_new; /* it was looked at in this run, and no line of the metrics says so yet */
    int64_t begun;     /* the step at which this run began */
    struct ending_clock clock;
    int64_t wish; /* see ending_wish; on rank 0 */
    bool warned;  /* of a validation that has risen */
    struct records records;
    const struct training_calls *calls; /* of training_run, while it runs */
};

/* resume: continues from the newest good checkpoint in output.dir's checkpoints/, if there is one. Collective; an error
 * on one rank is returned on all; ERROR_PREEMPTED if one was asked to stop while directions were found. Free with
 * training_free. */
struct error training_new(struct training *t, const struct training_parts *parts, bool resume);
void training_free(struct training *t);

/* After the last step: frees what the training holds on the device. The state stays. */
void training_free_device(struct training *t);

/* Callbacks of a run. On rank 0: `check` before files are written, whose error keeps them from being written; may be
 * NULL. On every rank: `begin` when all that comes before the first step is done, which may be NULL; `sample` when a
 * picture is due (`missing`: it may exist already, since the run begins at this step), which returns ERROR_PREEMPTED on
 * all ranks if one was asked to stop; and `after_step`. */
struct training_calls {
    struct error (*check)(void *arg);
    void (*begin)(void *arg);
    struct error (*sample)(void *arg, int64_t step, bool missing);
    void (*after_step)(void *arg, const struct metric *metric);
    void *arg;
};

/* Runs the remaining steps, writing metrics, embeddings and checkpoints into config->output.dir. ERROR_PREEMPTED after
 * a signal, with everything saved. */
struct error training_run(struct training *t, const struct training_calls *calls);

/* One step and nothing else: no records, no files, slopes compared only in the first. Collective. */
struct error training_step(struct training *t);

/* The slopes in t->slots [batch n]: b n + i - 1 is that of picture b's loss along direction i. */
void training_find_slopes(const struct training *t, double *slopes);

/* What a rank does in the steps up to `step` and the looks between and after them, in evaluations. */
double training_work(const struct training *t, int64_t step);

/* Bytes of the device's arena that a step needs. */
int64_t training_arena(const struct training *t);

#endif
