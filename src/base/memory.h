/* base/memory.h
 *
 * Heap memory that starts at zero and on a cache line. Sizes are counts times a size, checked for overflow, since both
 * may come from a file.
 */
#ifndef ZOODIP_BASE_MEMORY_H
#define ZOODIP_BASE_MEMORY_H

#include <stdint.h>

/* count * size zeroed bytes at a multiple of 64, or NULL. count 0 gives a valid pointer. Free with memory_free. */
void *memory_alloc(int64_t count, int64_t size);

/* Makes room for one more item in a list of `count` items of `size` bytes: returns the list itself if *room is enough,
 * else a copy with twice the room (64 at first) after freeing the old one. NULL when out of memory; the old list is
 * then untouched. */
void *memory_grow(void *list, int64_t count, int64_t *room, int64_t size);

/* Frees; NULL is allowed. */
void memory_free(void *p);

/* The most memory that this process has had at one time, in bytes. */
int64_t memory_peak(void);

/* A copy of a string, or NULL. */
char *memory_string(const char *text);

#endif
