/* pipeline/fingerprint.h
 *
 * Do all ranks read the same data? Local disks of nodes may differ, and a rank that trains on other pictures or another
 * model than rank 0 would silently spoil the word. So each rank computes fingerprints (CRC-32) of what it reads; they
 * are compared at the start, and the error names a rank that differs and what differs.
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

/* ERROR_BAD_INPUT if a rank's fingerprints [count], at most 8, differ from rank 0's. Collective. */
struct error fingerprint_compare(struct comm *comm, const struct fingerprint *fingerprints, int64_t count);

/* Each continues an earlier CRC; begin with 0. */
uint32_t fingerprint_bytes(uint32_t crc, const void *data, int64_t bytes);
uint32_t fingerprint_text(uint32_t crc, const char *text);

/* What a model's files hold (model/contents.h), as CRC-32. */
struct model_files {
    uint32_t tensors, texts;
};

/* Reads them. The tensors are read once on each node, by its first rank, and by those that find others under the model's
 * path (another working folder, a container); an error on one rank is returned on all. Collective; the numbers still
 * have to be compared. `tokenizer` as model_tokenizer_folder takes it. */
struct error fingerprint_model(struct comm *comm, const char *model, const char *tokenizer, struct model_files *files);

#endif
