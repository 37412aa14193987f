// Idea: race.h. Each word (4 bytes) of shared and of device memory has a cell that remembers its last writer and
// reader.
#include "race.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <algorithm>
#include <map>
#include <vector>

#include "block.h"
#include "memory.h"

/* One reader may represent many. */
enum { ONE_OF_WARP = 0x8000, MANY = 0xffff, OTHER_BLOCK = 0xfffe };

struct cell {
    uint32_t write_tick, read_tick;
    uint16_t writer, reader;
    uint8_t write_mask, read_mask, known; /* bytes: last written, last read, ever written in this block */
    bool atomic : 1, promised : 1;
};

/* A block that passed a fence and then an atomic: what it did until `last` is visible to anyone who uses that atomic
 * later. */
struct release {
    uint32_t first, last; /* ticks */
};

struct clock {
    uint32_t now, launch, block, barrier;
    std::map<uintptr_t, std::vector<struct release>> released; /* by the atomic's address, in this launch */
    std::vector<struct release> acquired;                      /* by this block */
};

static struct clock ticks;
static struct cell shared_cells[(MOST_SHARED + SHARED_GUARD) / 4];

static struct cell *device_cells()
{
    static struct cell *cells;
    size_t bytes;
    device_range(&bytes);
    if (!cells) {
        void *at = mmap(NULL, bytes / 4 * sizeof(struct cell), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) {
            perror("stand-in: cells of the race check");
            abort();
        }
        cells = (struct cell *)at;
    }
    return cells;
}

/* -------------------------------------------------------------------------------- time */

void race_launch()
{
    ticks.launch = ++ticks.now;
    ticks.released.clear();
}

void race_block()
{
    ticks.block = ticks.barrier = ++ticks.now;
    ticks.acquired.clear();
    for (int i = 0; i < running.warp_count; i++)
        running.warps[i].sync_tick = ticks.now;
    memset(shared_cells, 0, (running.launch->shared + 3) / 4 * sizeof(struct cell));
}

void race_barrier()
{
    ticks.barrier = ++ticks.now;
}

void race_warp_barrier()
{
    my_warp().sync_tick = ++ticks.now;
}

/* -------------------------------------------------------------------------------- order */

static bool acquired(uint32_t tick)
{
    for (const struct release &r : ticks.acquired)
        if (r.first <= tick && tick <= r.last)
            return true;
    return false;
}

// Whether an access of this block at `tick` by `who` (a thread, or many) is ordered before what the current thread
// does.
static bool ordered_here(uint32_t tick, uint16_t who)
{
    const struct thread &me = *running.current;
    if (tick < ticks.barrier || who == me.number)
        return true;
    bool mine = who < ONE_OF_WARP ? who / LANES == me.warp : who == (ONE_OF_WARP | me.warp);
    return mine && tick < my_warp().sync_tick;
}

static bool ordered(uint32_t tick, uint16_t who)
{
    if (tick < ticks.launch)
        return true;
    if (tick < ticks.block || who == OTHER_BLOCK)
        return acquired(tick);
    return ordered_here(tick, who);
}

/* -------------------------------------------------------------------------------- complaints */

struct word {
    struct cell *cell;
    const char *memory; /* "shared" or "device" */
    size_t offset;      /* of the word's first byte */
    uint8_t mask;       /* the bytes that are touched */
};

[[noreturn]] static void race(const char *what, const struct word &w, const char *did, uint32_t tick, uint16_t who)
{
    char other[64];
    if (tick < ticks.block || who == OTHER_BLOCK)
        snprintf(other, sizeof(other), "another block");
    else if (who == MANY)
        snprintf(other, sizeof(other), "several threads");
    else if (who & ONE_OF_WARP)
        snprintf(other, sizeof(other), "lanes of warp %d", who & ~ONE_OF_WARP);
    else
        snprintf(other, sizeof(other), "thread %d", who);
    block_fault("race: %s %s memory at %zu, which %s %s with no barrier between", what, w.memory, w.offset, other, did);
}

static void check_promise(const char *what, const struct word &w)
{
    if (w.cell->promised)
        block_fault("race: %s shared memory at %zu, where a copy is under way: copy_wait comes first", what, w.offset);
}

/* -------------------------------------------------------------------------------- one word */

static void note_read(struct cell *c, uint8_t mask)
{
    const struct thread &me = *running.current;
    uint16_t who = me.number;
    if (!ordered(c->read_tick, c->reader)) {
        if (c->read_tick < ticks.block || c->reader == OTHER_BLOCK)
            who = OTHER_BLOCK;
        else if ((c->reader < ONE_OF_WARP ? c->reader / LANES : c->reader & ~ONE_OF_WARP) == me.warp)
            who = (uint16_t)(ONE_OF_WARP | me.warp);
        else
            who = MANY;
        mask |= c->read_mask;
    }
    c->reader = who;
    c->read_tick = ticks.now;
    c->read_mask = mask;
}

static void read_word(const struct word &w)
{
    struct cell *c = w.cell;
    check_promise("reads", w);
    if (c->write_mask & w.mask && !ordered(c->write_tick, c->writer))
        race("reads", w, "wrote", c->write_tick, c->writer);
    note_read(c, w.mask);
}

static void check_write(const struct word &w, bool atomic)
{
    struct cell *c = w.cell;
    check_promise("writes", w);
    if (c->write_mask & w.mask && !(atomic && c->atomic) && !ordered(c->write_tick, c->writer))
        race("writes", w, "wrote", c->write_tick, c->writer);
    if (c->read_mask & w.mask && !ordered(c->read_tick, c->reader))
        race("writes", w, "read", c->read_tick, c->reader);
}

static void note_write(struct cell *c, uint8_t mask, bool atomic)
{
    bool beside = c->write_tick >= ticks.barrier && c->writer != running.current->number; // other bytes of the word
    c->write_mask = beside ? c->write_mask | mask : mask;
    c->write_tick = ticks.now;
    c->writer = running.current->number;
    c->known |= mask;
    c->atomic = atomic;
}

/* -------------------------------------------------------------------------------- where it is */

static bool in_shared(uintptr_t address, size_t *offset)
{
    *offset = address - (uintptr_t)shared_memory;
    return *offset < MOST_SHARED + SHARED_GUARD;
}

static bool in_device(uintptr_t address, size_t *offset)
{
    static size_t bytes;
    static uintptr_t range = device_range(&bytes);
    *offset = address - range;
    return *offset < bytes;
}

extern "C" char __executable_start, _end; // the linker's: the program's own image

// A thread's own variables, and the program's own image, do not concern us. Anything else is host memory.
static void check_private(uintptr_t address)
{
    if (address - (uintptr_t)&__executable_start < (uintptr_t)&_end - (uintptr_t)&__executable_start)
        return;
    for (int i = 0; i < running.count; i++) {
        const struct thread &t = running.threads[(running.current->number + i) % running.count];
        if (address - (uintptr_t)t.fiber.stack < t.fiber.bytes)
            return;
    }
    block_fault("touches memory of the host at %p", (void *)address);
}

// Calls each(word) for the words that contain the bytes.
template <class Each> static void each_word(uintptr_t address, size_t bytes, Each each)
{
    size_t offset;
    const char *memory = "device";
    struct cell *cells = NULL;
    if (in_shared(address, &offset)) {
        if (offset + bytes > running.launch->shared)
            block_fault("touches shared memory at %zu, past the launch's %zu bytes", offset, running.launch->shared);
        memory = "shared";
        cells = shared_cells;
    } else if (in_device(address, &offset)) {
        cells = device_cells();
    } else {
        check_private(address);
        return;
    }
    for (size_t at = offset & ~(size_t)3; at < offset + bytes; at += 4) {
        size_t from = std::max(at, offset), to = std::min(at + 4, offset + bytes);
        uint8_t mask = (uint8_t)(((1u << (to - from)) - 1) << (from - at));
        each(word{&cells[at / 4], memory, at, mask});
    }
}

/* -------------------------------------------------------------------------------- the hooks' doors */

void race_read(uintptr_t address, size_t bytes)
{
    if (!running.current)
        return;
    each_word(address, bytes, [](const struct word &w) {
        if (w.memory[0] == 's' && w.mask & ~w.cell->known && !w.cell->promised)
            block_fault("reads shared memory at %zu, which nobody has written", w.offset);
        read_word(w);
    });
}

void race_write(uintptr_t address, size_t bytes)
{
    if (!running.current)
        return;
    each_word(address, bytes, [](const struct word &w) {
        check_write(w, false);
        note_write(w.cell, w.mask, false);
    });
}

// Atomics do not race with each other. After a fence they pass on what their block has seen and done.
void race_atomic(uintptr_t address, size_t bytes)
{
    if (!running.current)
        return;
    std::vector<struct release> &released = ticks.released[address];
    ticks.acquired = released;
    each_word(address, bytes, [](const struct word &w) {
        check_write(w, true);
        note_write(w.cell, w.mask, true);
    });
    if (running.current->fenced)
        released.push_back({ticks.block, ticks.now});
}

void race_promise(uintptr_t address, size_t bytes)
{
    each_word(address, bytes, [](const struct word &w) {
        check_write(w, false);
        w.cell->promised = true;
    });
}

void race_land(uintptr_t address, size_t bytes)
{
    each_word(address, bytes, [](const struct word &w) {
        w.cell->promised = false;
        note_write(w.cell, w.mask, false);
    });
}
