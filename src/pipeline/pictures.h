/* pipeline/pictures.h
 *
 * A run's pictures: the subject's photos, and for every prompt of output.prompts what the model generates for the
 * initializer and for the learned word from the same start latents (pipeline/generation.h). All ranks generate; rank 0
 * assembles the pictures.
 */
#ifndef ZOODIP_PIPELINE_PICTURES_H
#define ZOODIP_PIPELINE_PICTURES_H

#include "files/file.h"
#include "pipeline/subject.h"
#include "report/metrics.h"
#include "report/report.h"

struct pictures {
    struct report_pictures shown;

    /* private: what it points to; names borrow from the subject */
    const char **names;
    char **prompts, *labels[2];
    char **texts;                   /* [2 * prompts]: the start word's prompts, then the learned word's */
    struct draw_command *commands;  /* the same */
    char word[PATH_SIZE];           /* the learned word's file */
    char start_word[2 * PATH_SIZE]; /* of token.initializer, where that is a file: its word, called like the new one */
    struct picture *start, *learned;
};

/* Generates both words with the default sampler, output.sample_steps and output.guidance. `last`: no subject follows, so
 * the pipeline's networks are unloaded and the VAE need not fit beside them in memory. Collective in the group.
 * embedding [vectors, width]. Free with pictures_free. */
struct error pictures_generate(struct pictures *p, struct subject *subject, const float *embedding, bool last);

/* How many evaluations pictures of one or two words on every prompt take as long as (generation_cost). */
double pictures_cost(const struct subject *subject, int64_t words);

void pictures_free(struct pictures *p);

/* The learned word alone on every prompt, into output.dir/samples/step-N-PROMPT.png; `missing`: only if one of these
 * files is missing; and into TensorBoard's file. metrics: rank 0's, else NULL. Collective. */
struct error pictures_sample(struct subject *subject, const float *embedding, int64_t step, bool missing,
                             struct metrics *metrics);

#endif
