// Idea: block.h.
#include "block.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>

#include "race.h"

#ifdef STANDIN_ASAN
#include <sanitizer/asan_interface.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
struct block running;
alignas(1024) unsigned char shared_memory[MOST_SHARED + SHARED_GUARD];

static const unsigned char CANARY = 0xa5;

/* -------------------------------------------------------------------------------- order */

enum order { FORWARD, BACKWARD, SHUFFLED };

static enum order thread_order()
{
    const char *asked = getenv("ZOODIP_THREAD_ORDER");
    if (!asked || strcmp(asked, "forward") == 0)
        return FORWARD;
    return strncmp(asked, "shuffled", 8) == 0 ? SHUFFLED : BACKWARD;
}

// The seed continues from block to block, so that each has its own order.
static uint32_t next_random()
{
    static uint32_t state = 0;
    if (state == 0) {
        const char *colon = strchr(getenv("ZOODIP_THREAD_ORDER"), ':');
        state = colon ? (uint32_t)atoi(colon + 1) * 2654435761u + 1 : 1;
    }
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static void put_in_order(enum order order, int *items, int count)
{
    for (int i = 0; i < count; i++)
        items[i] = order == BACKWARD ? count - 1 - i : i;
    for (int i = count - 1; order == SHUFFLED && i > 0; i--)
        std::swap(items[i], items[next_random() % (unsigned)(i + 1)]);
}

/* -------------------------------------------------------------------------------- faults */

static void leave_kernel()
{
    struct fiber *from = &running.current->fiber;
    running.current = NULL;
    fiber_switch(from, &running.caller);
}

void block_fault(const char *format, ...)
{
    const struct thread &t = *running.current;
    fprintf(stderr,
            "stand-in: kernel %s, block (%u, %u, %u), thread (%u, %u, %u): ", kernel_name(running.launch->kernel),
            blockIdx.x, blockIdx.y, blockIdx.z, t.place.x, t.place.y, t.place.z);
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    running.failed = true;
    leave_kernel();
    abort(); // a thread that failed is never continued
}

#ifndef STANDIN_ASAN
// A stray address in a kernel is the kernel's error; one in host code ends the process as usual.
static void on_bad_address(int number, siginfo_t *info, void *)
{
    if (running.current)
        block_fault("touches %p, where there is nothing", info->si_addr);
    signal(number, SIG_DFL);
}
#endif

static void watch_addresses()
{
#ifndef STANDIN_ASAN
    static bool watched;
    struct sigaction action = {};
    action.sa_sigaction = on_bad_address;
    action.sa_flags = SA_SIGINFO | SA_NODEFER; // the handler is left by switching fibers
    for (int number : {SIGSEGV, SIGBUS})
        if (!watched)
            sigaction(number, &action, NULL);
    watched = true;
#endif
}

static const char *const meeting_names[] = {"nowhere",       "__shfl_xor_sync", "__shfl_down_sync",
                                            "__shfl_sync",   "a vote",          "__syncwarp",
                                            "load_matrices", "mma_tile",        "__syncthreads"};

[[noreturn]] static void nobody_can_go_on()
{
    const struct thread &me = *running.current;
    for (int i = 0; i < running.count; i++) {
        const struct thread &t = running.threads[i];
        if (!t.ended && t.at != me.at)
            block_fault("waits forever at %s: thread %d waits at %s", meeting_names[me.at], i, meeting_names[t.at]);
    }
    block_fault("waits forever at %s", meeting_names[me.at]);
}

/* -------------------------------------------------------------------------------- whose turn */

// The first ready lane after `turn`, cyclically.
static struct thread *ready_lane(int warp, int turn)
{
    uint32_t ready = running.warps[warp].ready, later = turn < LANES - 1 ? ready & ~((2u << turn) - 1) : 0;
    int next = __builtin_ctz(later ? later : ready);
    return &running.threads[warp * LANES + running.lane_of[next]];
}

static struct thread *whose_turn(int warp, int turn)
{
    if (running.warps[warp].ready)
        return ready_lane(warp, turn);
    int place = 0;
    while (running.order[place] != warp)
        place++;
    for (int i = 1; i < running.warp_count; i++) {
        int other = running.order[(place + i) % running.warp_count];
        if (running.warps[other].ready)
            return ready_lane(other, LANES - 1);
    }
    return NULL;
}

static inline void now_runs(struct thread *t)
{
    running.current = t;
    threadIdx = t->place;
}

static void let_others_run()
{
    struct thread *me = running.current, *next = whose_turn(me->warp, me->turn);
    if (!next)
        nobody_can_go_on();
    if (next == me)
        return;
    now_runs(next);
    fiber_switch(&me->fiber, &next->fiber);
}

static inline void wait_here(struct thread *t, enum meeting meeting)
{
    t->at = meeting;
    running.warps[t->warp].ready &= ~(1u << t->turn);
}

// Turns, not lanes, of the lanes present.
static uint32_t turns_of(const struct warp &w)
{
    uint32_t turns = 0;
    for (int lane = 0; lane < w.launched; lane++)
        turns |= 1u << running.turn_of[lane];
    return turns;
}

/* -------------------------------------------------------------------------------- meetings */

void __syncthreads()
{
    struct thread *me = running.current;
    if (running.ended > 0)
        block_fault("reaches __syncthreads, but %d threads have ended already", running.ended);
    if (++running.waiting < running.count) {
        wait_here(me, BLOCK_BARRIER);
        let_others_run();
        return;
    }
    running.waiting = 0;
    race_barrier();
    for (int i = 0; i < running.warp_count; i++)
        running.warps[i].ready = turns_of(running.warps[i]);
}

void meet(enum meeting meeting, bool whole, void (*compute)(struct warp &))
{
    struct thread *me = running.current;
    struct warp &w = running.warps[me->warp];
    if (w.launched != __builtin_popcount(w.present))
        block_fault("reaches %s, but %d lanes of its warp have ended already", meeting_names[meeting],
                    w.launched - __builtin_popcount(w.present));
    if (whole && w.launched < LANES)
        block_fault("reaches %s in a warp of %d lanes", meeting_names[meeting], w.launched);
    if (w.arrived > 0 && w.meeting != meeting)
        block_fault("reaches %s while lanes of its warp wait at %s", meeting_names[meeting], meeting_names[w.meeting]);
    w.meeting = meeting;
    if (++w.arrived < w.launched) {
        wait_here(me, meeting);
        let_others_run();
        return;
    }
    w.arrived = 0;
    compute(w);
    w.ready = turns_of(w);
}

static void end_of_thread()
{
    struct thread *me = running.current;
    struct warp &w = running.warps[me->warp];
    if (running.waiting > 0)
        block_fault("ends while %d threads wait at __syncthreads", running.waiting);
    if (w.arrived > 0)
        block_fault("ends while lanes of its warp wait at %s", meeting_names[w.meeting]);
    me->ended = true;
    w.present &= ~(1u << me->lane);
    wait_here(me, NOWHERE);
    if (++running.ended == running.count)
        leave_kernel();
    else
        let_others_run();
}

// When continued, a thread's fiber serves the next block.
static void thread_body()
{
    fiber_began();
    for (;;) {
        running.launch->call(running.launch->kernel, running.launch->args.data());
        end_of_thread();
    }
}

/* -------------------------------------------------------------------------------- blocks */

static void lay_out_threads(const struct launch &l)
{
    int count = (int)(l.block.x * l.block.y * l.block.z);
    for (int i = 0; i < count; i++) {
        struct thread &t = running.threads[i];
        unsigned x = (unsigned)i;
        t.place = {x % l.block.x, x / l.block.x % l.block.y, x / (l.block.x * l.block.y)};
        t.number = (uint16_t)i;
        t.warp = (uint16_t)(i / LANES);
        t.lane = (uint16_t)(i % LANES);
        if (!t.made)
            fiber_make(&t.fiber, thread_body, i);
        t.made = true;
    }
    running.count = count;
    running.warp_count = (count + LANES - 1) / LANES;
}

static void begin_block(enum order order)
{
    put_in_order(order, running.order, running.warp_count);
    put_in_order(order, running.lane_of, LANES);
    for (int turn = 0; turn < LANES; turn++)
        running.turn_of[running.lane_of[turn]] = turn;
    for (int i = 0; i < running.warp_count; i++) {
        struct warp &w = running.warps[i];
        w.launched = std::min<int>(LANES, running.count - i * LANES);
        w.present = w.launched == LANES ? ~0u : (1u << w.launched) - 1;
        w.ready = turns_of(w);
        w.arrived = 0;
    }
    for (int i = 0; i < running.count; i++) {
        struct thread &t = running.threads[i];
        t.turn = (uint16_t)running.turn_of[t.lane];
        t.at = NOWHERE;
        t.ended = t.fenced = false;
        t.groups = 0;
        t.copies.clear();
    }
    running.ended = running.waiting = 0;
    memset(shared_memory, 0xff, running.launch->shared);
    race_block();
}

static void run_block(enum order order)
{
    begin_block(order);
    int first = running.order[0];
    now_runs(ready_lane(first, LANES - 1));
    fiber_switch(&running.caller, &running.current->fiber);
}

static void forget_threads()
{
    for (int i = 0; i < running.count; i++)
        running.threads[i].made = false;
}

// Past the end of the launch's shared memory: watched by AddressSanitizer, or a pattern that must not change.
static void fence_shared(size_t bytes)
{
#ifdef STANDIN_ASAN
    ASAN_POISON_MEMORY_REGION(shared_memory + bytes, sizeof(shared_memory) - bytes);
#else
    memset(shared_memory + bytes, CANARY, SHARED_GUARD);
#endif
}

static void unfence_shared(const struct launch &l)
{
#ifdef STANDIN_ASAN
    ASAN_UNPOISON_MEMORY_REGION(shared_memory, sizeof(shared_memory));
#else
    for (size_t i = 0; i < SHARED_GUARD && !running.failed; i++)
        if (shared_memory[l.shared + i] != CANARY) {
            fprintf(stderr, "stand-in: kernel %s wrote shared memory at %zu, past its %zu bytes\n",
                    kernel_name(l.kernel), l.shared + i, l.shared);
            running.failed = true;
        }
#endif
    (void)l;
}

static uint3 block_place(const dim3 &grid, uint64_t number)
{
    return {(unsigned)(number % grid.x), (unsigned)(number / grid.x % grid.y), (unsigned)(number / grid.x / grid.y)};
}

bool run_grid(const struct launch &l)
{
    enum order order = thread_order();
    uint64_t blocks = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
    std::vector<int> places(order == SHUFFLED ? blocks : 0);
    put_in_order(order, places.data(), (int)places.size());
    running.launch = &l;
    running.failed = false;
    gridDim = l.grid;
    blockDim = l.block;
    watch_addresses();
    lay_out_threads(l);
    fence_shared(l.shared);
    race_launch();
    for (uint64_t i = 0; i < blocks && !running.failed; i++) {
        blockIdx = block_place(l.grid, order == SHUFFLED   ? (uint64_t)places[i]
                                       : order == BACKWARD ? blocks - 1 - i
                                                           : i);
        run_block(order);
    }
    unfence_shared(l);
    if (running.failed)
        forget_threads();
    running.current = NULL;
    return !running.failed;
}
