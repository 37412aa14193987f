/* pipeline/generation.h
 *
 * Generates several pictures with a loaded pipeline, in two halves: first the latents of all of them, by text encoder
 * and UNet, then the pictures, by the VAE, which need not fit into memory beside the networks. Of n ranks that work
 * together, each generates every n-th picture.
 *
 * The ranks meet after every call of a network: if one was asked to stop (cluster/signals.h), all do, with
 * ERROR_PREEMPTED, and no rank waits for another longer than a call takes.
 */
#ifndef ZOODIP_PIPELINE_GENERATION_H
#define ZOODIP_PIPELINE_GENERATION_H

#include "model/denoiser.h"
#include "pipeline/pipeline.h"

struct generation {
    struct pipeline *pipeline;
    const struct sampler_type *sampler;
    int64_t steps;         /* a simulated GPU does as few as the sampler allows: they need as much memory */
    uint64_t seed;         /* of picture 0's noise that some samplers add on the way; picture i has seed + i */
    double guidance;       /* above 1: with a negative prompt */
    int64_t length;        /* ids of a chunk of a prompt */
    int64_t chunks;        /* of a prompt; see denoiser_setup */
    const float *weights;  /* of its ids, the same for all pictures; NULL: all are 1 */
    int64_t height, width; /* of the latents */
    const float *rows;     /* [vectors, width of an embedding]: learned words */
    int64_t vectors;       /* 0: none */
    int32_t first_id;      /* the id of row 0; the others follow */
    bool unload;           /* no pictures follow: the networks are unloaded before the VAE is loaded */

    /* Called for picture i by the rank that generates it, on a simulated GPU only the first; an error ends all. */
    struct error (*begin)(void *arg, int64_t i, int32_t *ids, float *latents); /* see denoiser_run */
    struct error (*end)(void *arg, int64_t i, struct picture *picture);        /* the picture is the callee's to free */
    /* In place of `end` for a picture whose numbers are infinite or NaN: the error that says so. It is returned when all
     * other pictures are made. */
    struct error (*spoiled)(void *arg, int64_t i);
    void *arg;

    bool only_spoiled;                     /* result, beside an error: that of `spoiled`, and nothing else went wrong */
    bool measure;                          /* resets the device's peak between the halves, so that each has its own */
    int64_t latents_bytes, pictures_bytes; /* results: the device's peaks at the end of each half */
};

/* Pictures 0 to count - 1. Collective in the group; an error on one rank is returned on all. */
struct error generation_run(struct generation *g, int64_t count);

/* How many evaluations so many pictures take as long as, each rank making its own one after the other. */
double generation_cost(const struct generation *g, int64_t count);

/* The larger of the two peaks. */
int64_t generation_bytes(const struct generation *g);

#endif
