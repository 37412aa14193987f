/* pipeline/outlook.h
 *
 * What a run has to do, in evaluations, and how long that takes: the live line of its steps, and after two of them a
 * line of the log that says how fast it is and how long it will take, pictures included. If that proves wrong by half,
 * another line says so, once.
 *
 * Work is counted as one rank does it, which has its share of lanes, looks and pictures, one after the other.
 */
#ifndef ZOODIP_PIPELINE_OUTLOOK_H
#define ZOODIP_PIPELINE_OUTLOOK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/progress.h"
#include "pipeline/subject.h"
#include "report/metrics.h"
#include "zo/train.h"

/* All that a config's run does, in evaluations, if it does not end before optim.steps. */
struct run_evaluations {
    int64_t lanes, looks, draws; /* of a step; looks, that at the start too, and the draws of each */
    int64_t samples, pictures;   /* how many are generated while it learns, and at the end */
    int64_t each;                /* evaluations of a picture */
};

/* Without the model, whose sampler settings decide how often a picture takes the network, as Stable Diffusion's. */
struct run_evaluations outlook_evaluations(const struct config *config);

/* Its fields are private. All zero: shows nothing. */
struct outlook {
    const struct training *training; /* NULL until outlook_begin */
    double sample_cost, end_cost;    /* of samples after a step, and of the pictures at the end */
    struct progress progress;
    char what[128];
    int64_t begun;  /* the step that the run went on from */
    double began;   /* when, by clock_seconds */
    int64_t last;   /* the last step as the estimate knows it */
    double seconds; /* the estimate, from `began` to the end of the pictures */
    double left;    /* seconds to that end, as they were after the newest step, */
    double when;    /* at this time by clock_seconds; 0: not known yet */
    bool corrected;
};

/* Before the first step; outlook_end must follow. Training and subject are borrowed. */
void outlook_begin(struct outlook *o, const struct training *training, const struct subject *subject);

/* After a step. */
void outlook_step(struct outlook *o, const struct metric *metric);

/* Seconds to the end of the run, pictures included, as far as they are known; else NAN. Still after outlook_end. */
double outlook_left(const struct outlook *o);

/* The pictures have lines of their own. */
void outlook_end(struct outlook *o);

#endif
