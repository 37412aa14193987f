/* model/quantized.h
 *
 * A model folder with int8 weights, as optimum-quanto saves one: every linear and convolution weight X.weight of text
 * encoder, UNet and VAE becomes X.weight._data (I8), X.weight._scale [out, 1 ...] in the source's number type,
 * X.input_scale and X.output_scale (ones, not used: only weights are quantized), and each part gets quanto_qmap.json.
 * Everything else is copied.
 */
#ifndef ZOODIP_MODEL_QUANTIZED_H
#define ZOODIP_MODEL_QUANTIZED_H

#include "base/error.h"

/* Writes the model of FOLDER to the new folder OUT. progress(text) is told each part; may be NULL. */
struct error quantized_write(const char *folder, const char *out, void (*progress)(const char *text));

#endif
