/* pipeline/subject.h
 *
 * From a config to everything that training needs besides the pipeline: the word, the pictures, their latents. The
 * order is read, encode, pipeline_load, start; bench, train, run and the memory plan all follow it.
 */
#ifndef ZOODIP_PIPELINE_SUBJECT_H
#define ZOODIP_PIPELINE_SUBJECT_H

#include "files/config.h"
#include "pipeline/initializer.h"
#include "pipeline/pipeline.h"
#include "text/tokenizer.h"
#include "zo/dataset.h"
#include "zo/parts.h"
#include "zo/previous.h"

struct subject {
    struct pipeline *pipeline;
    struct config config;
    struct tokenizer *tokenizer;
    int32_t first_id; /* of the word's tokens; the others follow */
    int64_t resolution;
    int64_t length; /* ids of a caption or prompt */
    struct dataset dataset;

    const char *derivative_why; /* why zo.derivative is what it is now, if that was auto; or NULL */
    bool rate_was_auto;         /* and optim.lr */

    /* private */
    char *recipe;                             /* see config_recipe */
    char contents[ORIGIN_FACTS][ORIGIN_TEXT]; /* the origin's facts that are known by a CRC-32 */
    struct initializer initializer;
    bool plain_word; /* the model has a word that is called like the new one */
    float *start;    /* [vectors, width]: the word before the first step */
};

/* Takes the config over, decides which derivative and rate the run takes (pipeline/derivative.h, learning_rate.h),
 * reads word, captions and pictures, and checks them against the model. Collective in the group: each rank has read its
 * config and reads the model's tokenizer, which are compared (pipeline/fingerprint.h); rank 0 reads the rest for all
 * (zo/dataset.h). Nothing is owned after an error. Free with subject_free. */
struct error subject_read(struct subject *s, struct pipeline *p, struct config *config, enum start start);
void subject_free(struct subject *s);

/* What subject_read would refuse, as far as that is known without opening a photo or a caption, some 50 microseconds: words
 * and settings that do not fit the model, photos that are not there. Not collective. */
struct error subject_check(struct pipeline *p, const struct config *config);

/* Logs what auto took. For rank 0 of those who learn. */
void subject_log_choices(const struct subject *s);

/* The same subject in another pipeline of the same model, with the pictures and captions of `from`, which outlives it.
 * Not collective. */
struct error subject_again(struct subject *s, struct pipeline *p, struct config *config, const struct subject *from);

/* For a command with one subject: reads the config, opens the pipeline for it, reads the subject, joins the ranks'
 * GPUs. `devices`: see pipeline_open. All ranks return the same; after an error nothing is owned. */
struct error subject_open(struct subject *s, struct pipeline *p, const char *config_path, const struct text_list *sets,
                          struct comm *comm, const struct device_kind *devices, enum start start);
void subject_close(struct subject *s); /* closes the pipeline too */

/* Encodes the pictures with a VAE that is loaded for it. Collective in the group. */
struct error subject_encode(struct subject *s);

/* After pipeline_load: reads what else training needs of the model. Collective in the group. */
struct error subject_start(struct subject *s);

/* What a run of the subject stands on; after pipeline_compare. The texts stay the subject's. */
struct origin subject_origin(struct subject *s);

/* What training needs, from a started subject, as which the device multiplies tangents from then on. */
struct training_parts subject_parts(const struct subject *s);

#endif
