/* tests/cuda/block.h
 *
 * Runs a grid: blocks one after another, the threads of a block as fibers, in the order that ZOODIP_THREAD_ORDER tells
 * (forward, backward, shuffled:SEED), by warps. A thread runs until it must wait: at a barrier for all threads of its
 * block, in a warp collective for all lanes of its warp. The last to arrive does the work for all and goes on.
 *
 * Invariant: a bit of warp::ready says that this lane can go on. When nobody can and not all have ended, the kernel
 * is wrong, and block_fault says who waits where.
 *
 * Shared memory holds 0xff (NaN) when a block begins; what lies behind the launch's bytes is watched.
 */
#ifndef ZOODIP_TESTS_CUDA_BLOCK_H
#define ZOODIP_TESTS_CUDA_BLOCK_H

#include <stddef.h>
#include <stdint.h>
#include <vector>

#include "fiber.h"
#include "host/language.h"

enum { LANES = 32, MOST_THREADS = 1024, MOST_SHARED = 227 << 10, SHARED_GUARD = 1024 };

/* One launch: the kernel, how to call it with its argument, and its argument as it was at the call. */
struct launch {
    void *kernel;
    void (*call)(void *kernel, const void *args);
    std::vector<char> args;
    dim3 grid, block;
    size_t shared;
};

/* One asynchronous copy under way: bytes taken at the call, put at the wait. */
struct copy {
    char *to;
    uint32_t bytes, group;
    char data[16];
};

enum meeting {
    NOWHERE,
    SHUFFLE_XOR,
    SHUFFLE_DOWN,
    SHUFFLE_FROM,
    BALLOT,
    WARP_BARRIER,
    LOAD_MATRICES,
    MMA,
    BLOCK_BARRIER
};

struct thread {
    struct fiber fiber;
    uint3 place; /* threadIdx */
    uint16_t number;
    uint16_t warp, lane;
    uint16_t turn; /* its bit in warp::ready: its place in the order of lanes */
    enum meeting at;
    bool made, ended, fenced;
    uint32_t groups; /* of copies, committed so far */
    std::vector<struct copy> copies;
};

/* What a lane brings to a collective. */
struct offer {
    uint64_t word;
    int argument;
    void *in[3];
};

struct warp {
    uint32_t ready;   /* by turn */
    uint32_t present; /* by lane: those that were launched and have not ended */
    int launched, arrived;
    enum meeting meeting; /* of those that have arrived */
    struct offer offers[LANES];
    uint64_t answers[LANES];
    uint64_t sync_tick; /* race.h */
};

/* The block that runs; one for the process. */
struct block {
    const struct launch *launch;
    struct thread threads[MOST_THREADS];
    struct warp warps[MOST_THREADS / LANES];
    int count, warp_count, ended, waiting; /* threads; `waiting` at the barrier */
    int order[MOST_THREADS / LANES];       /* of warps */
    int lane_of[LANES], turn_of[LANES];    /* order of lanes */
    struct thread *current;                /* NULL: no kernel runs */
    struct fiber caller;
    bool failed;
};

extern struct block running;
extern unsigned char shared_memory[];

/* Runs all blocks; false where the kernel did something forbidden, which is then on stderr. */
bool run_grid(const struct launch &launch);

/* Says what is wrong in this thread of this kernel, and leaves the kernel. */
[[noreturn]] void block_fault(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Meets the other lanes; compute(warp) runs once, in the last lane to arrive. All 32 must have been launched where
 * `whole`. */
void meet(enum meeting meeting, bool whole, void (*compute)(struct warp &));

/* The current lane's place in its warp's tables. */
static inline struct warp &my_warp()
{
    return running.warps[running.current->warp];
}

static inline struct offer &my_offer()
{
    return my_warp().offers[running.current->lane];
}

/* Name of the kernel at an address, from the program's own symbols. */
const char *kernel_name(const void *kernel);

#endif
