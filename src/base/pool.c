#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/memory.h"

/* A call is announced by a new number under the lock. Idle workers poll for it briefly before they sleep, since the
 * next op mostly follows within microseconds; polling longer would cost other ranks on an oversubscribed machine. For
 * the same reason a call does not wait for workers that are still asleep: workers join while it is open, and the caller
 * closes it when no task is left. */
enum { SPINS = 2000 };

struct pool {
    int threads, started;
    pthread_t *handles;
    pthread_mutex_t lock;
    pthread_cond_t wake, finished;
    atomic_long call; /* number of the newest call; negative: end */
    atomic_long next; /* the next task to hand out */
    bool open;        /* may workers still join? under the lock */
    atomic_int busy;  /* workers in the call; changed under the lock */
    long count;
    void (*task)(void *arg, int64_t i, int thread);
    void *arg;
};

struct worker {
    struct pool *pool;
    int thread;
};

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(struct pool *p, int thread)
{
    for (;;) {
        long i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->count)
            return;
        p->task(p->arg, i, thread);
    }
}

static long wait_for_call(struct pool *p, long seen)
{
    for (int spin = 0; spin < SPINS; spin++) {
        long call = atomic_load_explicit(&p->call, memory_order_acquire);
        if (call != seen)
            return call;
        pause_briefly();
    }
    pthread_mutex_lock(&p->lock);
    while (atomic_load_explicit(&p->call, memory_order_acquire) == seen)
        pthread_cond_wait(&p->wake, &p->lock);
    long call = atomic_load_explicit(&p->call, memory_order_acquire);
    pthread_mutex_unlock(&p->lock);
    return call;
}

static bool join(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    bool joined = p->open;
    if (joined)
        p->busy++;
    pthread_mutex_unlock(&p->lock);
    return joined;
}

static void leave(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    if (--p->busy == 0)
        pthread_cond_signal(&p->finished);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg)
{
    struct worker self = *(struct worker *)arg;
    memory_free(arg);
    struct pool *p = self.pool;
    for (long seen = 0;;) {
        seen = wait_for_call(p, seen);
        if (seen < 0)
            return NULL;
        if (!join(p))
            continue;
        work(p, self.thread);
        leave(p);
    }
}

static bool start_worker(struct pool *p, int thread)
{
    struct worker *w = memory_alloc(1, sizeof *w);
    if (!w)
        return false;
    *w = (struct worker){p, thread};
    if (pthread_create(&p->handles[thread - 1], NULL, worker_main, w) == 0)
        return true;
    memory_free(w);
    return false;
}

struct error pool_open(struct pool **pool, int threads)
{
    struct pool *p = memory_alloc(1, sizeof *p);
    if (!p)
        return error_memory("threads");
    p->threads = threads < 1 ? 1 : threads;
    p->handles = memory_alloc(p->threads, sizeof *p->handles);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->finished, NULL);
    while (p->handles && p->started < p->threads - 1 && start_worker(p, p->started + 1))
        p->started++;
    if (!p->handles || p->started < p->threads - 1) {
        pool_close(p);
        return error_failed("cannot start %d threads", threads);
    }
    *pool = p;
    return ok();
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->call, -1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->started; i++)
        pthread_join(p->handles[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->finished);
    pthread_mutex_destroy(&p->lock);
    memory_free(p->handles);
    memory_free(p);
}

int pool_threads(const struct pool *p)
{
    return p->threads;
}

void pool_run(struct pool *p, int64_t count, void (*task)(void *arg, int64_t i, int thread), void *arg)
{
    if (p->threads == 1 || count <= 1) {
        for (int64_t i = 0; i < count; i++)
            task(arg, i, 0);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->count = (long)count;
    p->task = task;
    p->arg = arg;
    p->open = true;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&p->call, 1, memory_order_release);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    work(p, 0);
    pthread_mutex_lock(&p->lock);
    p->open = false;
    pthread_mutex_unlock(&p->lock);
    for (int spin = 0; spin < SPINS && atomic_load(&p->busy) > 0; spin++)
        pause_briefly();
    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->busy) > 0)
        pthread_cond_wait(&p->finished, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

int pool_default_threads(int ranks_here)
{
    const char *asked = getenv("OMP_NUM_THREADS");
    if (asked && atoi(asked) > 0)
        return atoi(asked);
    cpu_set_t mine;
    int online = (int)sysconf(_SC_NPROCESSORS_ONLN), bound = online;
    if (sched_getaffinity(0, sizeof mine, &mine) == 0)
        bound = CPU_COUNT(&mine);
    // bound to part of the machine: that part is ours alone; bound to all of it: the ranks share it
    int threads = bound < online || ranks_here < 1 ? bound : online / ranks_here;
    return threads < 1 ? 1 : threads;
}
