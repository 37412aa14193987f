/* pipeline/start_latents.h
 *
 * Start latents from a file, in place of those that follow from a seed: `latents` F32 [pictures, channels, height, width].
 */
#ifndef ZOODIP_PIPELINE_START_LATENTS_H
#define ZOODIP_PIPELINE_START_LATENTS_H

#include <stdint.h>

#include "base/error.h"

struct start_latents {
    int64_t count, channels, height, width;
    float *values; /* [count, height, width, channels] */
};

/* Refuses, by file and tensor, what is not that. Free with start_latents_free, after an error too. */
struct error start_latents_read(struct start_latents *l, const char *path, int64_t channels);
void start_latents_free(struct start_latents *l);

#endif
