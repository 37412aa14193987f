/* tests/cuda/fiber.h
 *
 * Fibers: separate stacks between which one OS thread switches by hand, in a few nanoseconds, since a block of 256
 * threads that multiplies matrices switches millions of times. Assembly on x86-64, ucontext elsewhere; under
 * AddressSanitizer each switch is announced, as its fiber interface requires.
 *
 * Ownership: a fiber's stack is mapped on first use and kept for the life of the process.
 */
#ifndef ZOODIP_TESTS_CUDA_FIBER_H
#define ZOODIP_TESTS_CUDA_FIBER_H

#include <stddef.h>

#ifndef __x86_64__
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define STANDIN_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define STANDIN_ASAN 1
#endif
#endif

struct fiber {
#ifdef __x86_64__
    void *top; /* its saved registers */
#else
    ucontext_t context;
#endif
    char *stack; /* lowest byte; NULL: the caller's own stack */
    size_t bytes;
    void *fake; /* AddressSanitizer's */
};

/* Maps a stack and makes the fiber begin in body, which must never return. `number` staggers stacks: with equal low
 * bits they would all share the same few cache lines. */
void fiber_make(struct fiber *f, void (*body)(), int number);

/* Leaves `from`, continues `to`; returns when something continues `from`. */
void fiber_switch(struct fiber *from, struct fiber *to);

/* What a fiber's body calls first. */
void fiber_began();

#endif
