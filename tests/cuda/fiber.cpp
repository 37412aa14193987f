// Idea: fiber.h. A switch saves the registers that a callee must keep (System V ABI, section 3.2.1) and changes stacks.
#include "fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifdef STANDIN_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef STANDIN_ASAN
static const size_t STACK = 512 << 10; // redzones make frames several times as large
#else
static const size_t STACK = 128 << 10;
#endif
static const size_t GUARD = 4096;

#ifdef STANDIN_ASAN
static struct fiber *left; // the fiber that the current switch comes from
#endif

#ifdef __x86_64__
extern "C" void standin_switch(void **from, void *to);
__asm__(".text\n"
        ".globl standin_switch\n"
        ".type standin_switch, @function\n"
        "standin_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    popq %rcx\n"
        "    jmp *%rcx\n" // not ret, whose predictor would be wrong every time
        ".size standin_switch, . - standin_switch\n");
#endif

static void map_stack(struct fiber *f)
{
    void *at = mmap(NULL, GUARD + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || mprotect(at, GUARD, PROT_NONE) != 0) {
        perror("stand-in: stack of a thread");
        abort();
    }
    f->stack = (char *)at + GUARD;
    f->bytes = STACK;
}

void fiber_make(struct fiber *f, void (*body)(), int number)
{
    if (!f->stack)
        map_stack(f);
    f->fake = NULL;
#ifdef STANDIN_ASAN
    ASAN_UNPOISON_MEMORY_REGION(f->stack, f->bytes);
#endif
    size_t stagger = (size_t)number * 1088 % 16384 & ~(size_t)63;
#ifdef __x86_64__
    uint64_t *top = (uint64_t *)(f->stack + f->bytes - stagger) - 3; // rsp is 8 off 16 when a function begins
    *top = 0;
    *--top = (uint64_t)(uintptr_t)body;
    for (int i = 0; i < 6; i++)
        *--top = 0;
    f->top = top;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = f->bytes - stagger;
    f->context.uc_link = NULL;
    makecontext(&f->context, body, 0);
#endif
}

void fiber_began()
{
#ifdef STANDIN_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &bytes);
    if (left && !left->bytes) { // the caller's own stack, on first use
        left->stack = (char *)bottom;
        left->bytes = bytes;
    }
#endif
}

void fiber_switch(struct fiber *from, struct fiber *to)
{
#ifdef STANDIN_ASAN
    left = from;
    __sanitizer_start_switch_fiber(&from->fake, to->stack, to->bytes);
#endif
#ifdef __x86_64__
    standin_switch(&from->top, to->top);
#else
    swapcontext(&from->context, &to->context);
#endif
#ifdef STANDIN_ASAN
    __sanitizer_finish_switch_fiber(from->fake, NULL, NULL);
#endif
}
