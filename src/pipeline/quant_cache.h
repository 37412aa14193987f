/* pipeline/quant_cache.h
 *
 * quant.cache: a folder that keeps text encoder and UNet of a float model as `zoodip quantize` writes them, so that
 * only the first run with the model has to quantize it. The words are the same to the last bit with it and without: the
 * rest of a run, its VAE too, takes the model as it is, and the run is known by that.
 *
 *     CACHE/int8-TENSORS-TEXTS-VERSION/   the CRC-32 of all the model's tensors, and of the texts beside them
 *         text_encoder/, unet/            weights and config.json
 *         files.txt                       the CRC-32 of each file of weights
 *
 * Invariant: an entry appears whole, and is never changed or removed. Runs of one machine wait for the one that writes
 * it; of several machines, the first to be ready makes it appear. What a killed run has left, the next one of that
 * machine that needs the entry replaces.
 */
#ifndef ZOODIP_PIPELINE_QUANT_CACHE_H
#define ZOODIP_PIPELINE_QUANT_CACHE_H

#include "files/file.h"
#include "pipeline/pipeline.h"

/* ERROR_BAD_INPUT if that cannot be a cache; NULL is none. */
struct error quant_cache_check(const char *cache);

/* folder: from where to load text encoder and UNet: the entry, which is made if it does not exist, or the model's own
 * folder if there is no cache, or if it cannot be written, of which a warning says why. ERROR_BAD_INPUT names a damaged
 * file of an entry. After pipeline_compare. Collective over p->all. */
struct error quant_cache_find(struct pipeline *p, char folder[PATH_SIZE]);

#endif
