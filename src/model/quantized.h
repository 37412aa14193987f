/* model/quantized.h
 *
 * A model folder with weights of 8 or 4 bits, as optimum-quanto saves one: every linear and convolution weight X.weight
 * of text encoder, UNet and VAE becomes
 *
 *     8 bits   X.weight._data (I8), X.weight._scale [out, 1 ...]
 *     4 bits   X.weight._data._data (U8), X.weight._scale and X.weight._shift [groups, 1] (see device/quantize.h)
 *
 * with scales and shifts in the source's number type, X.input_scale and X.output_scale (ones, not used: only weights
 * are quantized), and each part gets quanto_qmap.json. Everything else is copied.
 *
 * For bfloat16 models, quanto rounds 4-bit shifts once more if it has repacked a layer for one of its kernels before
 * saving; ours are the shifts before that.
 */
#ifndef ZOODIP_MODEL_QUANTIZED_H
#define ZOODIP_MODEL_QUANTIZED_H

#include <stdbool.h>

#include "base/error.h"
#include "model/prediction.h"

/* What is quantized. */
struct quantized_source {
    const char *model;     /* a folder, or a single file, of which a folder is made (model/model_source.h) */
    const char *tokenizer; /* the folder of another tokenizer than its own, or NULL */
    enum prediction_choice prediction; /* what the copy says of it */
};

/* Writes the model of SOURCE in `bits` (8 or 4) to the folder OUT, which appears whole or stays as it was
 * (files/whole_folder.h). OUT must be new or empty; with `overwrite` it may hold another quantized model, and nothing
 * else. progress(part) is called before each part. */
struct error quantized_write(const struct quantized_source *source, const char *out, int bits, bool overwrite,
                             void (*progress)(const char *part));

/* Writes one part of it, of `model_parts`, to the folder OUT, which exists. */
struct error quantized_write_part(const char *model, const char *out, const char *part, int bits);

/* The name of the file with the weights of a part that was written. */
const char *quantized_weights(const char *part);

#endif
