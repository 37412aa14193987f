/* model/weights.h
 *
 * The weights of one part of a model (`unet/`, `vae/`, `text_encoder/`), found by the names that diffusers and
 * transformers give them and handed to the device. The first thing wrong sticks, so that a network is loaded as a plain
 * list of its layers and checked once at the end.
 *
 * Two spellings of one layer are the same to the caller: text encoders with and without "text_model.", the VAE's
 * attention before and after diffusers 0.17 (query, key, value, proj_attn). A layer may be stored as numbers (X.weight)
 * or as optimum-quanto stores codes: of 8 bits (X.weight._data, X.weight._scale) or of 4 (X.weight._data._data,
 * X.weight._scale, X.weight._shift). Codes stay as they are, whatever bits are asked for; only 4 bits from 8 are
 * refused.
 */
#ifndef ZOODIP_MODEL_WEIGHTS_H
#define ZOODIP_MODEL_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "device/device.h"
#include "files/safetensors.h"

/* Where the packed weights go. take gives `bytes` of memory and says whether this process is the one to fill it; ready
 * is called when it has (or has failed: `e`), and returns what all who share the memory agree on. */
struct store {
    struct error (*take)(void *arg, int64_t bytes, void **memory, bool *fill);
    struct error (*ready)(void *arg, struct error e);
    void (*give)(void *arg, void *memory, int64_t bytes);
    void *arg;
};

/* A process of its own: plain memory, always filled. */
struct store store_alone(void);

/* Nowhere: a load that only finds and measures every layer, so that what is wrong with a file is known before any work.
 * The part is then fit for nothing but freeing; weights.memory_bytes says what it would take. */
struct store store_nowhere(void);

/* For a device that is not there (device_plan): measured as ever, and never filled. */
struct store store_planned(void);

struct weights {
    struct device *device;
    int bits; /* 32, 16, 8 or 4: how linear and convolution weights are kept */
    struct safetensors file;
    struct weight **handles; /* all that were made, freed together */
    int64_t handle_count, handle_room;
    int least_bits, most_bits; /* in which linear and convolution weights really are kept */
    bool filling;              /* this pass reads the file's numbers */
    struct error error;
    struct store store;
    void *memory;  /* packed, on the host: where the device computes, or on its way there */
    void *settled; /* packed, on a GPU */
    int64_t memory_bytes;
};

/* The way out of a load that fails before weights_load: the others of the store wait for this rank's word. */
struct error weights_refuse(struct store store, struct error e);

/* Opens the weights in FOLDER/PART, whichever of diffusers' and transformers' file names is there: sharded or not, with
 * a variant (fp16) or not; calls load(arg, weights) twice, once to measure and once to fill, and closes up. bits 0:
 * each layer as the file has it. */
struct error weights_load(struct weights *w, struct device *device, const char *folder, const char *part, int bits,
                          struct store store, void (*load)(void *arg, struct weights *w), void *arg);
void weights_free(struct weights *w);

/* Which of diffusers' file names FOLDER/PART has. */
struct error weights_path(char path[4096], const char *folder, const char *part);

/* Layers by name (printf-like, without ".weight"). A linear layer may be stored as a 1 x 1 convolution and the other
 * way. */
__attribute__((format(printf, 5, 6))) const struct weight *weights_linear(struct weights *w, int64_t out, int64_t in,
                                                                          bool bias, const char *name, ...);
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
