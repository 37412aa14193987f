/* pipeline/pipeline.h
 *
 * A model on a device: its settings, and text encoder and UNet in memory that the node's ranks share, loaded once. All
 * subjects are learned with it and all pictures generated. What belongs to one subject (config, word, pictures) is in
 * pipeline/subject.h.
 *
 * Invariant: `all` are the ranks that share the model, `comm` those that work on the same subject: all of them, until
 * pipeline_divide. The rank for which comm_rank(comm) is 0 leads its group.
 */
#ifndef ZOODIP_PIPELINE_PIPELINE_H
#define ZOODIP_PIPELINE_PIPELINE_H

#include "cluster/comm.h"
#include "device/device.h"
#include "files/config.h"
#include "files/sha256.h"
#include "model/noise_schedule.h"
#include "model/text_encoder.h"
#include "model/unet.h"
#include "model/vae.h"
#include "pipeline/fingerprint.h"
#include "text/tokenizer.h"

/* What a pipeline is opened for. */
struct pipeline_choice {
    const char *model;     /* a diffusers folder, or a checkpoint in a single file */
    const char *tokenizer; /* the folder of another tokenizer than its own, or NULL */
    enum prediction_choice prediction;
    const char *device;          /* as device_open takes it; must outlive the pipeline */
    int bits;                    /* of text encoder and UNet: 4, 8, 16 or 32; 0: as stored */
    bool bfloat;                 /* see device_set_activations */
    const char *cache;           /* quant.cache, or NULL */
    double cache_wait;           /* seconds, for another run that is writing there */
    bool encodes;                /* pictures will be encoded, so the VAE needs its encoder */
    const struct config *config; /* where the choice comes from, for errors; NULL: from the command line's options */
};

/* The choice of a config, which must outlive it. */
struct pipeline_choice pipeline_choice_of(const struct config *config);

struct pipeline {
    struct comm *all, *comm;
    struct device *device;
    char *model;
    struct text_config text_config;
    double table_rms; /* of struct text_encoder, once it is open */
    struct unet_config unet_config;
    struct vae_config vae;
    struct noise_schedule schedule;
    struct text_encoder text;
    struct unet unet;
    struct tokenizer *tokenizer; /* its own words; NULL until pipeline_tokenizer is called */
    uint32_t contents; /* what the model is (model/contents.h), on all ranks the same; after pipeline_compare */
    int most_bits;     /* in which text encoder and UNet are kept; codes of a quantized file stay as they are */
    bool simulated;    /* on a simulated GPU */

    /* private */
    char file_hash[SHA256_TEXT]; /* of a model that is one file; see model_label.h */
    struct pipeline_choice choice;
    int least_bits;
    bool quantizes;                 /* weights become codes in pipeline_load */
    char *cache, *chosen_tokenizer; /* the choice's */
    struct model_files files;       /* as they were when the weights were checked */
    uint32_t stamp;                 /* of these files */
};

/* Opens the device and checks model folder, settings and the shapes of all weights; reads no weight. Not collective.
 * `devices` NULL: on a simulated GPU, with tangents if the choice is "cpu", to find out what memory a run
 * needs; see device_simulate. Free with pipeline_close. */
struct error pipeline_open(struct pipeline *p, const struct pipeline_choice *choice, struct comm *all,
                           const struct device_kind *devices);
void pipeline_close(struct pipeline *p);

/* Reads all weights once on each node: sets `contents`, and refuses a weight that is infinite or NaN. Then whether all
 * ranks have the same program, the same contents (pipeline/fingerprint.h) and the same kind of device, as `config` chose
 * them; a rank alone needs no config. Every command that works with the weights calls it before it loads them.
 * Collective over all. */
struct error pipeline_compare(struct pipeline *p, const struct config *config);

/* Whether the model's folder still holds what was loaded, which is read again if a file there has another time or size:
 * the VAE is read for each of a queue's jobs. Collective in the group. */
struct error pipeline_recheck(struct pipeline *p);

/* The first key in which two configs differ that must be the same for one pipeline to serve both, or NULL. The model
 * may be the same folder under two names. */
const char *pipeline_difference(const struct config *a, const struct config *b);

/* Whether a config may be learned in this pipeline, which was opened for another. */
struct error pipeline_serves(const struct pipeline *p, const struct config *config);

/* The model's tokenizer, or the one chosen for it, read at the first call. A subject derives its own from it, to
 * add its word. Not collective. */
struct error pipeline_tokenizer(struct pipeline *p, const struct tokenizer **tokenizer);

/* From here on this rank works with those that pass the same group. Collective over all. */
struct error pipeline_divide(struct pipeline *p, int group);

/* Joins the GPUs of the ranks that work together (pipeline/gpu_link.h), with the config's timeout. Collective in the
 * group. */
struct error pipeline_link(struct pipeline *p, const struct config *config);

/* Rank 0 logs what computes for `comm` and how many pictures it will encode; and what pipeline_load will load. */
void pipeline_log_encoding(const struct pipeline *p, const struct comm *comm, int64_t pictures, int64_t masked);
void pipeline_log_loading(const struct pipeline *p);

/* The VAE, in memory shared by the node's ranks of `comm`. Collective there. Free with vae_free. */
struct error pipeline_vae(struct pipeline *p, struct comm *comm, bool encoder, bool decoder, struct vae *vae);

/* Loads text encoder and UNet, from the cache (pipeline/quant_cache.h) or the model's folder; frees both. Collective over
 * all. */
struct error pipeline_load(struct pipeline *p);
void pipeline_unload(struct pipeline *p);

#endif
