/* zo/masks.h
 *
 * A mask says how much each place of a photo counts in the loss: white fully, black and transparent not at all, grey in
 * proportion.
 *
 * Equals the masked loss of kohya's sd-scripts: the mask is fitted as its photo is, and becomes a weight for each
 * position of the latent by F.interpolate(mode="area"), which for whole factors is the mean of a square of pixels. The
 * loss is mean(w d^2) over all positions and channels, not divided by the weights' mean.
 */
#ifndef ZOODIP_ZO_MASKS_H
#define ZOODIP_ZO_MASKS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "files/picture.h"

/* A mask's grey values after fitting -> *grey [side, side], memory_free'd. photo: as it was read, before it was fitted; the
 * mask may have another size, but not another shape. Errors name the mask. */
struct error mask_read(uint8_t **grey, const char *path, const struct picture *photo, int64_t side, enum fit fit);

/* Weights [side / factor, side / factor] from 0 to 1. grey NULL: 1 everywhere. */
void mask_weights(float *weights, const uint8_t *grey, int64_t side, int64_t factor, bool mirrored);

#endif
