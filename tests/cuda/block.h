/* tests/cuda/block.h
 *
 * Runs a grid: blocks one after another, the threads of a block as fibers, in the order given by ZOODIP_THREAD_ORDER
 * (forward, backward, shuffled:SEED), by warps. A thread runs until it must wait: at a barrier for all threads of its
 * block, in a warp collective for all lanes of its warp. The last to arrive does the work for all and continues.
 *
 * Invariant: a bit of warp::ready says that its lane can continue. If none can and not all have ended, the kernel is
 * wrong, and block_fault says which thread waits where.
 *
 * Shared memory holds 0xff (NaN) when a block begins; the memory past the launch's bytes is watched.
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

/* One unfinished asynchronous copy: bytes are read at the call and written at the wait. */
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

/* A lane's input to a collective. */
struct offer {
    uint64_t word;
    int argument;
    void *in[3];
};

struct warp {
    uint32_t ready;   /* by turn */
    uint32_t present; /* by lane: launched and not ended */
    int launched, arrived;
    enum meeting meeting; /* of those that have arrived */
    struct offer offers[LANES];
    uint64_t answers[LANES];
    uint64_t sync_tick; /* race.h */
};

/* The running block; one for the process. */
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

/* Runs all blocks; false if the kernel did something forbidden, which is then on stderr. */
bool run_grid(const struct launch &launch);

/* Reports an error of this thread of this kernel, and leaves the kernel. */
[[noreturn]] void block_fault(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Waits for the other lanes; compute(warp) runs once, in the last lane to arrive. With `whole`, all 32 must have been
 * launched. */
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
