/* base/pool.h
 *
 * A fixed set of threads that work through numbered tasks. What a task computes must not depend on which thread runs it
 * or when, since the pool hands out numbers in any order; every promise of equal bits rests on that.
 */
#ifndef ZOODIP_BASE_POOL_H
#define ZOODIP_BASE_POOL_H

#include <stdint.h>

#include "base/error.h"

struct pool;

/* `threads` >= 1 includes the caller's own, which works too. */
struct error pool_open(struct pool **pool, int threads);
void pool_close(struct pool *pool);
int pool_threads(const struct pool *pool);

/* Runs task(arg, i, thread) for i = 0 .. count-1, thread in 0 .. threads-1 (0 is the caller), and returns when all are
 * done. One call at a time. */
void pool_run(struct pool *pool, int64_t count, void (*task)(void *arg, int64_t i, int thread), void *arg);

/* How many threads this process should use when `ranks_here` ranks share the machine: OMP_NUM_THREADS if set; else the
 * cores that the launcher bound this process to; if it bound none, this rank's part of the machine's cores. */
int pool_default_threads(int ranks_here);

#endif
