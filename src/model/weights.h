/* model/weights.h
 *
 * The weights of one part of a model (`unet/`, `vae/`, `text_encoder/`), found by the names that diffusers and
 * transformers give them and handed to the device. The first error sticks, so that a network is loaded as a plain list
 * of its layers and checked once at the end.
 *
 * Two spellings of one layer are the same to the caller: text encoders with and without "text_model.", the VAE's
 * attention before and after diffusers 0.17 (query, key, value, proj_attn). A layer may be stored as numbers (X.weight)
 * or as optimum-quanto stores codes: of 8 bits (X.weight._data, X.weight._scale) or of 4 (X.weight._data._data,
 * X.weight._scale, X.weight._shift). Codes stay as they are, whatever bits are asked for; only a request for 4 bits
 * from 8-bit codes is refused.
 */
#ifndef ZOODIP_MODEL_WEIGHTS_H
#define ZOODIP_MODEL_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/progress.h"
#include "device/device.h"
#include "files/safetensors.h"

/* Where the packed weights go. alloc returns `bytes` of memory and says whether this process is the one to fill it;
 * ready is called when it has done so (or has failed: `e`), and returns what all processes that share the memory agree
 * on. */
struct store {
    struct error (*alloc)(void *arg, int64_t bytes, void **memory, bool *fill);
    struct error (*ready)(void *arg, struct error e);
    void (*free)(void *arg, void *memory, int64_t bytes);
    void *arg;
};

/* Nowhere: the load only finds and measures every layer, so that a wrong file is noticed before any work is done. The
 * part can then only be freed; weights.memory_bytes says what it would need. */
struct store store_nowhere(void);

/* For a simulated device (device_simulate): measured as usual, but never filled. */
struct store store_simulated(void);

struct weights {
    int64_t memory_bytes;      /* of the packed weights */
    int least_bits, most_bits; /* in which linear and convolution weights are kept */
    bool quantizes;            /* some of them become codes of 8 or 4 bits in this load */
    struct safetensors file;

    /* private */
    struct device *device;
    int bits;                /* asked for: 32, 16, 8 or 4; 0: as stored */
    struct weight **handles; /* all handles made, freed together */
    int64_t handle_count, handle_room;
    bool filling;             /* this pass reads the file's numbers */
    struct progress progress; /* of it */
    struct error error;
    struct store store;
    void *memory;   /* packed, on the host: where the device computes, or on its way there */
    void *uploaded; /* packed, on a GPU */
};

/* Call this if a load fails before weights_load: the other ranks of the store wait for this rank's result. */
struct error weights_refuse(struct store store, struct error e);

/* Opens the weights of a model's part (model/model_source.h); calls load(arg, weights) twice, once to measure and
 * once to fill. bits 0: each layer as the file has it. */
struct error weights_load(struct weights *w, struct device *device, const char *folder, const char *part, int bits,
                          struct store store, void (*load)(void *arg, struct weights *w), void *arg);
void weights_free(struct weights *w);

/* Layers by name (printf-like, without ".weight"). A linear layer may be stored as a 1 x 1 convolution, and vice
 * versa. */
__attribute__((format(printf, 5, 6))) const struct weight *weights_linear(struct weights *w, int64_t out, int64_t in,
                                                                          bool bias, const char *name, ...);
/* Up to three linear layers of the same shape and x as one, with their outputs one after the other: those of the name
 * with each suffix, of which NULL ends the list. One product reads x once, and on a GPU fills its tiles better. */
__attribute__((format(printf, 6, 7))) const struct weight *weights_joined(struct weights *w, int64_t out, int64_t in,
                                                                          bool bias, const char *const *suffixes,
                                                                          const char *name, ...);
__attribute__((format(printf, 4, 5))) const struct weight *weights_gated(struct weights *w, int64_t out, int64_t in,
                                                                         const char *name, ...);
__attribute__((format(printf, 5, 6))) const struct weight *weights_conv(struct weights *w, int64_t out, int64_t in,
                                                                        int64_t kernel, const char *name, ...);
__attribute__((format(printf, 3, 4))) const struct weight *weights_norm(struct weights *w, int64_t channels,
                                                                        const char *name, ...);
/* An embedding table [rows, dim]; never quantized. */
__attribute__((format(printf, 4, 5))) struct weight *weights_table(struct weights *w, int64_t rows, int64_t dim,
                                                                   const char *name, ...);

#endif
