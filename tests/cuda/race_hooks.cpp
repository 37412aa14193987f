// What a compiler puts before every load and store under -fsanitize=thread (the interface of its run-time library, as
// gcc and clang emit it), forwarded to race.h. That library itself is not linked.
#include <stddef.h>
#include <stdint.h>

#include "race.h"

#define ACCESS(bytes)                                                                                                  \
    void __tsan_read##bytes(void *at)                                                                                  \
    {                                                                                                                  \
        race_read((uintptr_t)at, bytes);                                                                               \
    }                                                                                                                  \
    void __tsan_write##bytes(void *at)                                                                                 \
    {                                                                                                                  \
        race_write((uintptr_t)at, bytes);                                                                              \
    }                                                                                                                  \
    void __tsan_unaligned_read##bytes(void *at)                                                                        \
    {                                                                                                                  \
        race_read((uintptr_t)at, bytes);                                                                               \
    }                                                                                                                  \
    void __tsan_unaligned_write##bytes(void *at)                                                                       \
    {                                                                                                                  \
        race_write((uintptr_t)at, bytes);                                                                              \
    }

extern "C" {
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

void __tsan_read_range(void *at, size_t bytes)
{
    race_read((uintptr_t)at, bytes);
}

void __tsan_write_range(void *at, size_t bytes)
{
    race_write((uintptr_t)at, bytes);
}

void __tsan_vptr_update(void **, void *)
{
}

void __tsan_vptr_read(void **)
{
}

void __tsan_func_entry(void *)
{
}

void __tsan_func_exit()
{
}

void __tsan_init()
{
}

// clang turns copies and fills into calls to these
void *__tsan_memcpy(void *to, const void *from, size_t bytes)
{
    race_read((uintptr_t)from, bytes);
    race_write((uintptr_t)to, bytes);
    return __builtin_memcpy(to, from, bytes);
}

void *__tsan_memset(void *to, int value, size_t bytes)
{
    race_write((uintptr_t)to, bytes);
    return __builtin_memset(to, value, bytes);
}
}
