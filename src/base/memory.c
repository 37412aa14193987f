#include "base/memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

void *memory_alloc(int64_t count, int64_t size)
{
    int64_t bytes;
    if (count < 0 || size < 0 || __builtin_mul_overflow(count, size, &bytes) || bytes > INT64_MAX - 64)
        return NULL;
    bytes = (bytes / 64 + 1) * 64;
    void *p = aligned_alloc(64, (size_t)bytes);
    if (p)
        memset(p, 0, (size_t)bytes);
    return p;
}

void *memory_grow(void *list, int64_t count, int64_t *room, int64_t size)
{
    if (count < *room)
        return list;
    int64_t wider = *room ? 2 * *room : 64;
    void *more = memory_alloc(wider, size);
    if (!more)
        return NULL;
    if (count)
        memcpy(more, list, (size_t)(count * size));
    memory_free(list);
    *room = wider;
    return more;
}

void memory_free(void *p)
{
    free(p);
}

int64_t memory_peak(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)usage.ru_maxrss * 1024;
}

char *memory_string(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = malloc(bytes); // texts are many and short: no cache line for each
    if (copy)
        memcpy(copy, text, bytes);
    return copy;
}
