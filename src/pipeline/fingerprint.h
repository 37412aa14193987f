/* pipeline/fingerprint.h
 *
 * Do all ranks read the same data? Local disks of nodes may differ, and a rank that trains on other pictures or another
 * model than rank 0 would silently spoil the word. So each rank computes marks (CRC-32) of what it reads; they are
 * compared at the start, and the error names a rank that differs and what differs.
 */
#ifndef ZOODIP_PIPELINE_FINGERPRINT_H
#define ZOODIP_PIPELINE_FINGERPRINT_H

#include <stdint.h>

#include "base/error.h"
#include "cluster/comm.h"

struct fingerprint {
    const char *what; /* for the error: "the pictures (photos/mug)" */
    uint32_t value;
};

/* ERROR_BAD_INPUT if some rank's marks are not rank 0's. Collective; `count` marks, at most 8, in the same order. */
struct error fingerprint_compare(struct comm *comm, const struct fingerprint *marks, int64_t count);

/* Each continues an earlier mark; begin with 0. */
uint32_t fingerprint_bytes(uint32_t mark, const void *data, int64_t bytes);
uint32_t fingerprint_text(uint32_t mark, const char *text);

/* The model's files: names, sizes and all contents, at a second or two for each gigabyte. Files that cannot be read are
 * left out: the code that needs them will report it. */
uint32_t fingerprint_model(const char *folder);

#endif
