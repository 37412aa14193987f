/* zo/step_block.h
 *
 * What the host and the device tell each other in a step: a few small tensors, one after the other in one piece of
 * memory, and the same bytes on the host, so that all of them are one copy, for which a GPU's host need not wait.
 */
#ifndef ZOODIP_ZO_STEP_BLOCK_H
#define ZOODIP_ZO_STEP_BLOCK_H

#include <stdint.h>

#include "base/error.h"
#include "device/device.h"

struct step_block {
    struct device *device;
    struct tensor bytes; /* U8, on the device */
    char *host;
};

/* A tensor to be made: a view of the block, to be used as any other; only device_free_state is not for it. */
struct block_part {
    struct tensor *tensor;
    enum dtype type;
    int64_t lanes, height, width, channels;
};

/* Free with step_block_free, after an error too. */
struct error step_block_new(struct step_block *b, struct device *device, const struct block_part *parts, int64_t count);
void step_block_free(struct step_block *b);

/* A tensor's numbers on the host. */
void *step_block_at(const struct step_block *b, struct tensor t);

/* Copies tensors from the first to the last to the device, and back. As device_write and device_read: what the host
 * holds is not to be changed, and not valid, before device_wait. */
void step_block_write(const struct step_block *b, struct tensor first, struct tensor last);
void step_block_read(const struct step_block *b, struct tensor first, struct tensor last);

#endif
