// Idea: memory.h.
#include "memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <algorithm>
#include <map>

#include "fiber.h"

struct usage device_usage, pinned_usage;

typedef std::map<uintptr_t, size_t> table; // address -> bytes

static table &device_table()
{
    static table t;
    return t;
}

static table &pinned_table()
{
    static table t;
    return t;
}

static const size_t PAGE = 4096;

int64_t device_limit()
{
    const char *asked = getenv("ZOODIP_STANDIN_MEMORY");
    return asked ? atoll(asked) : (int64_t)8 << 30;
}

#ifdef STANDIN_ASAN

uintptr_t device_range(size_t *bytes)
{
    *bytes = 0;
    return 0;
}

// cudaMalloc aligns to 256 (Programming Guide, "Device Memory Accesses").
static void *take_device(size_t bytes)
{
    void *memory = NULL;
    return posix_memalign(&memory, 256, bytes) == 0 ? memory : NULL;
}

static void give_device(void *memory, size_t)
{
    free(memory);
}

#else

uintptr_t device_range(size_t *bytes)
{
    static size_t reserved = 2 * (size_t)device_limit() + (64 << 20); // gaps and fragments
    static void *range = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *bytes = range == MAP_FAILED ? 0 : reserved;
    return range == MAP_FAILED ? 0 : (uintptr_t)range;
}

static size_t room_of(size_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE + PAGE; // and the gap after it
}

// The first large enough hole in the range; 0: none.
static uintptr_t find_hole(size_t room)
{
    size_t bytes;
    uintptr_t at = device_range(&bytes), end = at + bytes;
    for (auto &[address, size] : device_table()) {
        if (address - at >= room)
            return at;
        at = address + room_of(size);
    }
    return bytes && end - at >= room ? at : 0;
}

static void *take_device(size_t bytes)
{
    uintptr_t at = find_hole(room_of(bytes));
    if (!at || mprotect((void *)at, room_of(bytes) - PAGE, PROT_READ | PROT_WRITE) != 0)
        return NULL;
    return (void *)at;
}

static void give_device(void *memory, size_t bytes)
{
    mmap(memory, room_of(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

#endif

static void *enter(table &t, struct usage &u, void *memory, size_t bytes)
{
    if (!memory)
        return NULL;
    memset(memory, 0xff, bytes);
    t[(uintptr_t)memory] = bytes;
    u.made++;
    u.alive++;
    u.bytes += (int64_t)bytes;
    u.peak = std::max(u.peak, u.bytes);
    return memory;
}

// The bytes of the removed allocation; -1: there is none.
static int64_t strike(table &t, struct usage &u, void *memory)
{
    auto found = t.find((uintptr_t)memory);
    if (found == t.end())
        return -1;
    int64_t bytes = (int64_t)found->second;
    t.erase(found);
    u.alive--;
    u.bytes -= bytes;
    return bytes;
}

static bool holds(const table &t, const void *at, size_t bytes)
{
    auto behind = t.upper_bound((uintptr_t)at);
    if (behind == t.begin())
        return false;
    auto [address, size] = *std::prev(behind);
    uintptr_t offset = (uintptr_t)at - address;
    return offset <= size && bytes <= size - offset;
}

void *device_allocate(size_t bytes)
{
    if ((int64_t)bytes > device_limit() - device_usage.bytes)
        return NULL;
    return enter(device_table(), device_usage, take_device(bytes), bytes);
}

bool device_free(void *memory)
{
    int64_t bytes = strike(device_table(), device_usage, memory);
    if (bytes >= 0)
        give_device(memory, (size_t)bytes);
    return bytes >= 0;
}

bool device_holds(const void *at, size_t bytes)
{
    return holds(device_table(), at, bytes);
}

void *pinned_allocate(size_t bytes)
{
    void *memory = NULL;
    return enter(pinned_table(), pinned_usage, posix_memalign(&memory, PAGE, bytes) == 0 ? memory : NULL, bytes);
}

bool pinned_free(void *memory)
{
    if (strike(pinned_table(), pinned_usage, memory) < 0)
        return false;
    free(memory);
    return true;
}

bool pinned_holds(const void *at, size_t bytes)
{
    return holds(pinned_table(), at, bytes);
}
