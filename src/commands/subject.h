/* commands/subject.h
 *
 * From a config to everything that training stands on: the checks that need the model's folder, the pictures, the VAE
 * for as long as it takes to encode them, then text encoder and UNet in memory that the node's ranks share. Used by
 * train and bench.
 */
#ifndef ZOODIP_COMMANDS_SUBJECT_H
#define ZOODIP_COMMANDS_SUBJECT_H

#include "cluster/comm.h"
#include "device/device.h"
#include "files/config.h"
#include "model/scheduler.h"
#include "model/text_encoder.h"
#include "model/unet.h"
#include "model/vae.h"
#include "text/tokenizer.h"
#include "zo/dataset.h"
#include "zo/train.h"

struct subject {
    struct config config;
    char *recipe; /* see config_recipe */
    struct comm *comm;
    struct device *device;
    struct tokenizer *tokenizer;
    int32_t first_id, initializer_id;
    int64_t resolution;
    struct vae_config vae;
    struct noise_schedule schedule;
    struct dataset dataset;
    struct text_encoder text;
    struct unet unet;
    float *initializer; /* [width] */
    bool planned;       /* on a GPU that is not there */
};

/* Where the subject's weights are packed: in memory that the node's ranks share, by the first of them. */
struct store subject_store(const struct subject *s);

/* Reads and checks config, tokenizer, model configs and pictures. All ranks return the same. */
struct error subject_read(struct subject *s, const char *config_path, const char *const *sets, int64_t set_count,
                          struct comm *comm);

/* The same on a GPU that is not there, to learn what memory a run takes; see device_plan. */
struct error subject_read_planned(struct subject *s, const char *config_path, const char *const *sets,
                                  int64_t set_count, struct comm *comm);

/* First: encodes the pictures with the VAE, and frees it. */
struct error subject_encode(struct subject *s);

/* Then: loads text encoder and UNet; and frees these two. */
struct error subject_load(struct subject *s);
void subject_unload(struct subject *s);

/* What training stands on, of a loaded subject. */
struct training_parts subject_parts(const struct subject *s);
void subject_free(struct subject *s);

#endif
