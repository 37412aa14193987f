/* zo/train.h
 *
 * ZOODiP's training, step by step (arXiv 2503.14868, section 4). step.c and train.c read as the algorithm: draw, add
 * noise to pictures, perturb, evaluate a share of the lanes, sum the slots, estimate, project, update.
 *
 * Lane s = i * batch + b: direction i (0 is the embedding itself; with two sides n + i is direction i backwards) under
 * picture b. Slots hold the lanes' losses; every rank fills its own and the sum over ranks is exact in any order.
 *
 * Invariant: after every step all ranks hold the same state, bit for bit, on any number of ranks and threads.
 */
#ifndef ZOODIP_ZO_TRAIN_H
#define ZOODIP_ZO_TRAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cluster/balance.h"
#include "cluster/comm.h"
#include "cluster/share.h"
#include "device/device.h"
#include "files/config.h"
#include "report/metrics.h"
#include "model/noise_schedule.h"
#include "model/text_encoder.h"
#include "model/unet.h"
#include "zo/state.h"
#include "zo/dataset.h"
#include "zo/draws.h"
#include "zo/evaluator.h"
#include "zo/step.h"

/* A batch of lanes being put together on the host for the evaluator. */
struct lane_batch {
    struct evaluator evaluator;
    float *noisy, *target, *timesteps, *rows; /* as in struct evaluation */
    int32_t *map, *ids;
    double *losses; /* [lanes] */
};

struct training {
    struct training_parts parts;
    struct state state;
    struct draws draws;
    int64_t vectors, dim;     /* dim: vectors x width, the length of the embedding */
    int64_t lanes;            /* (sides n + 1) x batch */
    double *slots;            /* the losses [lanes], and after them what ranks tell each other */
    double *gradient;         /* [dim] */
    float *latent, *noise;    /* one picture's, for validation */
    struct balance balance;   /* which rank evaluates which lanes */
    struct step step;         /* this rank's part */
    struct lane_batch checks; /* validation */
    int64_t validation_draws, validation_every;
    double validation_first, validation_last; /* the first (of the initializer or the resumed word), and the newest */
    double last_checkpoint;                   /* when, by clock_seconds */
    bool unsaved;                             /* the last attempt to write something failed */
    double seconds;                           /* in steps, this run */
};

/* tau from the config, or min(128, width / 6). */
int64_t training_tau(const struct config *config, int64_t width);

/* The draws that a config makes, for `pictures` pictures and `captions` templates (0: one per picture). */
struct draw_shape training_draws(const struct config *config, int64_t pictures, int64_t captions, int64_t height,
                                 int64_t width, int64_t channels, int64_t dim);

/* Collective; an error on one rank is returned on all. Free with training_free. */
struct error training_new(struct training *t, const struct training_parts *parts);
void training_free(struct training *t);

/* Frees the device's memory after the last step. The state stays. */
void training_rest(struct training *t);

/* Continues from the newest good checkpoint in DIR/checkpoints, if there is one. */
struct error training_resume(struct training *t);

/* Callbacks of a run, on every rank: sample when a picture is due (`missing`: it may exist already, since the run
 * begins at this step), which returns ERROR_PREEMPTED on all ranks if one was asked to stop; and told(arg, metric)
 * after every step, which may be NULL. */
struct training_calls {
    struct error (*sample)(void *arg, int64_t step, bool missing);
    void (*told)(void *arg, const struct metric *metric);
    void *arg;
};

/* Runs the remaining steps, writing metrics, embeddings and checkpoints into config->output.dir. ERROR_PREEMPTED after
 * a signal, with everything saved. */
struct error training_run(struct training *t, const struct training_calls *calls);

/* One step and nothing else: no records, no files. Collective. */
struct error training_step(struct training *t);

/* Mean loss over the fixed draws of an embedding [dim]: the pictures in turn, posterior means, noise and timesteps as
 * step 0 would draw them. Collective. */
struct error training_validate(struct training *t, const float *embedding, double *loss);

#endif
