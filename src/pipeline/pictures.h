/* pipeline/pictures.h
 *
 * A run's pictures: the subject's photos, and for every prompt of output.prompts what the model draws for the
 * initializer and for the learned word from the same start latents. All ranks draw; rank 0 assembles the pictures.
 *
 * The ranks meet after every call of a network: if one was asked to stop (cluster/signals.h), all do, with
 * ERROR_PREEMPTED, and no rank waits for another longer than a call takes.
 */
#ifndef ZOODIP_PIPELINE_PICTURES_H
#define ZOODIP_PIPELINE_PICTURES_H

#include "pipeline/subject.h"
#include "report/report.h"

struct pictures {
    const struct subject *subject;
    int64_t prompts;
    struct picture *initializer, *learned; /* [prompts] */
    struct report_picture *shown;          /* for the report: photos, then both words on every prompt */
    char **captions;                       /* [shown_count], owned */
    int64_t shown_count;
};

/* Draws both words with PNDM, 50 steps, guidance 7.5. `last`: no subject follows, so the pipeline's networks are
 * unloaded and the VAE need not fit beside them in memory. Collective in the group. embedding [vectors, width]. Free
 * with pictures_free. */
struct error pictures_draw(struct pictures *g, struct subject *subject, const float *embedding, bool last);

/* FOLDER/grid.png: a row of photos, a row of the initializer, a row of the learned word. */
struct error pictures_save(const struct pictures *g, const char *folder);
void pictures_free(struct pictures *g);

/* The learned word alone on every prompt, into output.dir/samples/step-N-PROMPT.png; `missing`: only if one of these
 * files is missing. Collective. */
struct error pictures_sample(struct subject *subject, const float *embedding, int64_t step, bool missing);

#endif
