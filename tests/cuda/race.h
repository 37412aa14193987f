/* tests/cuda/race.h
 *
 * Who touched which word, and was a barrier between? Kernels compiled with -fsanitize=thread call a hook at each read
 * and write (race_hooks.cpp), and the hooks call these functions. Without that flag nothing does.
 *
 * Time is one counter: every launch, block and barrier takes the next tick, and a word remembers the tick and thread of
 * its last write and read. An earlier access is ordered before ours if it is our own, older than our block's last
 * __syncthreads, or of our warp and older than its last __syncwarp. (Shuffles, votes, ldmatrix and mma order nothing:
 * CUDA C++ Programming Guide, "Warp Shuffle Functions": they "do not imply a memory barrier".) Accesses of another
 * block of the same launch are never ordered, unless it passed a fence and an atomic that our block has used since.
 *
 * A word of shared memory must have been written in this block before it is read, and nobody may touch it between an
 * asynchronous copy's call and its wait.
 */
#ifndef ZOODIP_TESTS_CUDA_RACE_H
#define ZOODIP_TESTS_CUDA_RACE_H

#include <stddef.h>
#include <stdint.h>

void race_read(uintptr_t address, size_t bytes);
void race_write(uintptr_t address, size_t bytes);
void race_atomic(uintptr_t address, size_t bytes);

/* A copy's target between its call and its wait; its completion is a write. */
void race_promise(uintptr_t address, size_t bytes);
void race_land(uintptr_t address, size_t bytes);

void race_launch();
void race_block();
void race_barrier();
void race_warp_barrier();

#endif
