/* zo/parts.h
 *
 * What a training is made of: one subject's config and pictures, the networks that it learns with, the ranks, and the
 * device. Everything is borrowed and outlives the training.
 */
#ifndef ZOODIP_ZO_PARTS_H
#define ZOODIP_ZO_PARTS_H

#include <stdint.h>

#include "cluster/comm.h"
#include "device/device.h"
#include "files/config.h"
#include "model/noise_schedule.h"
#include "model/text_encoder.h"
#include "model/unet.h"
#include "zo/dataset.h"
#include "files/origin.h"

struct training_parts {
    const struct config *config;
    struct comm *comm;
    struct device *device;
    const struct dataset *dataset;
    const struct text_encoder *text;
    const struct unet *unet;
    const struct noise_schedule *schedule;
    float scaling_factor;
    int32_t first_id;     /* of the word's tokens */
    const float *start;   /* [vectors, dim of one]: the word before the first step */
    struct origin origin; /* what the run stands on */
};

#endif
