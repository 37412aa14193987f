/* model/contents.h
 *
 * What a model folder holds, as one number: a run is known by it, and ranks compare it. The number depends on what
 * changes the result and on nothing else: for each tensor of text encoder, UNet and VAE its name, type, shape and bytes,
 * and the bytes of the small texts beside them (configs, tokenizer, scheduler). Paths, file names, shards, metadata and
 * blanks of a header do not count.
 *
 * The pass that reads the tensors also finds numbers that are infinite or NaN, in quantized layers' scales and shifts
 * too, so that no weight is used unseen.
 */
#ifndef ZOODIP_MODEL_CONTENTS_H
#define ZOODIP_MODEL_CONTENTS_H

#include <stdint.h>

#include "base/error.h"

/* Reads all tensors once, on so many threads: *crc is their CRC-32. ERROR_BAD_INPUT names the first tensor that holds a
 * number that is not finite. */
struct error contents_tensors(const char *folder, int threads, uint32_t *crc);

/* Continues a CRC-32 with the texts. Those that are not there are left out: the code that needs them reports it. */
struct error contents_texts(uint32_t *crc, const char *folder);

/* Where a folder's tensors lie: processes of one machine for which it is equal read the same files. */
struct contents_place {
    uint64_t device[3], folder[3];
};
struct contents_place contents_place_of(const char *folder);

/* Names, sizes and times of the folder's files: as long as the number stays, so do they. */
uint32_t contents_stamp(const char *folder);

#endif
