/* zo/evaluator.h
 *
 * A lane's loss, for a batch of lanes at a time: text encoder, UNet, squared error (op_loss).
 *
 *     ids, rows ─► text encoder ─► hidden ─┐
 *     noisy latents, timesteps ──────────► UNet ─► prediction ─► squared error, a double per lane
 *
 * The error is the mean over all numbers of a prediction and its target, each times its place's weight if the pictures
 * have masks (zo/masks.h).
 *
 * A lane is evaluated on one of the batch's pictures (`map`); what depends on the picture alone is computed once for
 * all its lanes.
 *
 * With tangents the batch's first lanes are its pictures' losses, lane l that of picture l, and each lane after them is
 * a slope: the derivative of its picture's loss (`map`) along the direction that its rows hold (device.h).
 */
#ifndef ZOODIP_ZO_EVALUATOR_H
#define ZOODIP_ZO_EVALUATOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "device/device.h"
#include "model/text_encoder.h"
#include "model/unet.h"

struct evaluator_shape {
    int64_t lanes, pictures;         /* of a batch */
    int64_t height, width, channels; /* of a latent */
    int64_t length;                  /* ids of a caption */
    int64_t vectors, dim;            /* of the word: vectors, and the width of one */
    int32_t first_id;                /* of the word's tokens */
    bool tangents;                   /* lanes from `pictures` on are tangents */
    bool predictions;                /* are kept */
    bool masked;                     /* places of pictures have weights */
};

struct evaluator {
    struct device *device;
    const struct text_encoder *text;
    const struct unet *unet;
    struct evaluator_shape shape;
    struct tensor ids, rows, target, losses;
    struct unet_input in;
    struct tensor mask;        /* F32 [pictures, height, width, 1]: the weights, if there are any */
    struct tensor predictions; /* F32, a latent for each lane, if they are kept: a tangent lane's are derivatives */
};

/* Text encoder and UNet are borrowed. Free with evaluator_free. */
struct error evaluator_new(struct evaluator *e, struct device *device, const struct text_encoder *text,
                           const struct unet *unet, const struct evaluator_shape *shape);
void evaluator_free(struct evaluator *e);

/* The ops of one batch, from its inputs (ids, rows, in, target, mask) to its losses, and predictions: for the body of a
 * program. */
void evaluator_forward(const struct evaluator *e);

#endif
