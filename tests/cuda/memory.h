/* tests/cuda/memory.h
 *
 * The stand-in's memories: device memory (limited by ZOODIP_STANDIN_MEMORY) and page-locked host memory, each a table
 * of allocations by address. Fresh memory holds 0xff, so that nobody relies on zeros.
 *
 * Device memory lies in one reserved range of addresses, a page-protected gap between allocations; under
 * AddressSanitizer it comes from malloc, so that overruns and uses after free are found to the byte.
 */
#ifndef ZOODIP_TESTS_CUDA_MEMORY_H
#define ZOODIP_TESTS_CUDA_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Of device memory, and of page-locked memory. */
struct usage {
    int64_t made, alive, bytes, peak; /* allocations in all, and now; bytes now, and at the peak */
};

extern struct usage device_usage, pinned_usage;

int64_t device_limit();

void *device_allocate(size_t bytes); /* NULL: no room */
bool device_free(void *memory);      /* false: there is no such allocation */
bool device_holds(const void *at, size_t bytes);

void *pinned_allocate(size_t bytes);
bool pinned_free(void *memory);
bool pinned_holds(const void *at, size_t bytes);

/* The reserved range, for the race check; 0 bytes under AddressSanitizer. */
uintptr_t device_range(size_t *bytes);

#endif
