/* commands/alike.h
 *
 * Do all ranks see the same things? Nodes may have local disks that differ, and ranks that train on other pictures or
 * another model than rank 0 would spoil the word without a sign. So each rank makes marks (CRC-32) of what it stands
 * on, they are compared at the start, and a rank that differs is named with what differs.
 */
#ifndef ZOODIP_COMMANDS_ALIKE_H
#define ZOODIP_COMMANDS_ALIKE_H

#include <stdint.h>

#include "base/error.h"
#include "cluster/comm.h"

struct mark {
    const char *what; /* for the error: "the pictures (photos/mug)" */
    uint32_t value;
};

/* ERROR_BAD_INPUT where some rank's marks are not rank 0's. Collective; `count` marks, at most 8, in the same order. */
struct error alike_check(struct comm *comm, const struct mark *marks, int64_t count);

/* A mark goes on from an earlier one; begin with 0. */
uint32_t mark_bytes(uint32_t mark, const void *data, int64_t bytes);
uint32_t mark_text(uint32_t mark, const char *text);

/* The model's files that are read: names, sizes, and contents, every byte, a second or two for each gigabyte. What
 * cannot be read is left out: whoever needs it will say so. */
uint32_t mark_model(const char *folder);

#endif
