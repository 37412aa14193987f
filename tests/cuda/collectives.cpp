// What the lanes of a warp do together, and atomics: the parts of host/language.h that involve other threads.
#include <string.h>

#include "block.h"
#include "race.h"

static uint64_t exchange(unsigned mask, enum meeting meeting, uint64_t word, int argument,
                         void (*compute)(struct warp &))
{
    if (mask != 0xffffffffu)
        block_fault("names the lanes 0x%08x: the stand-in knows whole warps only", mask);
    my_offer().word = word;
    my_offer().argument = argument;
    meet(meeting, false, compute);
    return my_warp().answers[running.current->lane];
}

// "If the target thread is inactive, the retrieved value is undefined" (Warp Shuffle Functions).
static uint64_t word_of(const struct warp &w, int lane)
{
    if (lane >= w.launched)
        block_fault("a shuffle reads lane %d, which there is not", lane);
    return w.offers[lane].word;
}

static void shuffle_xor(struct warp &w)
{
    for (int lane = 0; lane < w.launched; lane++)
        w.answers[lane] = word_of(w, (lane ^ w.offers[lane].argument) % LANES);
}

// Lanes near the end keep their own value.
static void shuffle_down(struct warp &w)
{
    for (int lane = 0; lane < w.launched; lane++) {
        int from = lane + w.offers[lane].argument;
        w.answers[lane] = word_of(w, from < LANES ? from : lane);
    }
}

static void shuffle_from(struct warp &w)
{
    for (int lane = 0; lane < w.launched; lane++)
        w.answers[lane] = word_of(w, w.offers[lane].argument % LANES);
}

static void ballot(struct warp &w)
{
    uint64_t votes = 0;
    for (int lane = 0; lane < w.launched; lane++)
        votes |= w.offers[lane].word << lane;
    for (int lane = 0; lane < w.launched; lane++)
        w.answers[lane] = votes;
}

static void barrier(struct warp &)
{
    race_warp_barrier();
}

uint64_t standin_shuffle_xor(unsigned mask, uint64_t word, int lanes)
{
    return exchange(mask, SHUFFLE_XOR, word, lanes, shuffle_xor);
}

uint64_t standin_shuffle_down(unsigned mask, uint64_t word, int lanes)
{
    return exchange(mask, SHUFFLE_DOWN, word, lanes, shuffle_down);
}

uint64_t standin_shuffle_from(unsigned mask, uint64_t word, int lane)
{
    return exchange(mask, SHUFFLE_FROM, word, lane, shuffle_from);
}

unsigned __ballot_sync(unsigned mask, int vote)
{
    return (unsigned)exchange(mask, BALLOT, vote != 0, 0, ballot);
}

int __any_sync(unsigned mask, int vote)
{
    return __ballot_sync(mask, vote) != 0;
}

int __all_sync(unsigned mask, int vote)
{
    return __ballot_sync(mask, !vote) == 0;
}

void __syncwarp(unsigned mask)
{
    exchange(mask, WARP_BARRIER, 0, 0, barrier);
}

void __threadfence()
{
    running.current->fenced = true;
}

template <class T> static T swap_if(T *at, T expected, T value)
{
    race_atomic((uintptr_t)at, sizeof(T));
    T before = *at;
    if (before == expected)
        *at = value;
    return before;
}

template <class T> static T add(T *at, T value)
{
    race_atomic((uintptr_t)at, sizeof(T));
    T before = *at;
    *at = (T)((unsigned)before + (unsigned)value); // wraps, as the hardware does
    return before;
}

int atomicCAS(int *at, int expected, int value)
{
    return swap_if(at, expected, value);
}

unsigned atomicCAS(unsigned *at, unsigned expected, unsigned value)
{
    return swap_if(at, expected, value);
}

int atomicAdd(int *at, int value)
{
    return add(at, value);
}

unsigned atomicAdd(unsigned *at, unsigned value)
{
    return add(at, value);
}
