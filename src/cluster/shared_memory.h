/* cluster/shared_memory.h
 *
 * Memory that all ranks of a node share, so that each node holds a model's weights only once.
 *
 * Invariant: one rank writes it; the others read only, after the next comm_agree or comm_barrier.
 */
#ifndef ZOODIP_CLUSTER_SHARED_MEMORY_H
#define ZOODIP_CLUSTER_SHARED_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cluster/comm.h"

/* Zeroed, page-aligned memory. *fill: this is the rank that writes it. If the node cannot share memory, each
 * rank gets its own and fills it. Collective. Free with shared_memory_free. */
struct error shared_memory_new(struct comm *comm, int64_t bytes, void **memory, bool *fill);
void shared_memory_free(void *memory, int64_t bytes);

#endif
