#include "pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A step follows the last one within a millisecond or two while requests run; sleeping in between
 * leaves the core to the threads that read and answer them. */
enum { SPINS_BEFORE_YIELD = 4000, SPINS_BEFORE_SLEEP = 20000 };

struct Pool {
    int num_threads;
    pthread_t *threads;
    Task task;
    void *context;
    _Alignas(64) _Atomic uint32_t round; /* counts jobs; a futex */
    _Alignas(64) _Atomic int num_sleeping;
    _Alignas(64) _Atomic int num_arrived;
    _Alignas(64) _Atomic uint32_t generation;
    _Atomic int is_ending;
    _Atomic int next_index;
};

/* A wait that fails (interrupted, forbidden by a sandbox) is a wait of no time: its loop looks
 * again. */
static void futex(_Atomic uint32_t *word, int operation, uint32_t value) {
    syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, 0, 0, 0);
}

void pool_barrier(Pool *pool) {
    uint32_t generation = atomic_load_explicit(&pool->generation, memory_order_relaxed);
    if (atomic_fetch_add(&pool->num_arrived, 1) == pool->num_threads - 1) {
        atomic_store_explicit(&pool->num_arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&pool->generation, generation + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&pool->generation, memory_order_acquire) == generation;
         spins++)
        if (spins < SPINS_BEFORE_YIELD) pool_relax();
        else sched_yield(); /* someone else has the other thread's core */
}

static uint32_t wait_for_round(Pool *pool, uint32_t last) {
    uint32_t round;
    for (int spins = 0; (round = atomic_load(&pool->round)) == last; spins++) {
        if (spins < SPINS_BEFORE_SLEEP) {
            pool_relax();
            continue;
        }
        atomic_fetch_add(&pool->num_sleeping, 1);
        futex(&pool->round, FUTEX_WAIT, last);
        atomic_fetch_sub(&pool->num_sleeping, 1);
    }
    return round;
}

static void *work(void *argument) {
    Pool *pool = argument;
    int index = atomic_fetch_add(&pool->next_index, 1);
    uint32_t round = 0;
    for (;;) {
        round = wait_for_round(pool, round);
        if (pool->is_ending) return 0;
        pool->task(pool->context, index);
        pool_barrier(pool);
    }
}

Pool *pool_new(int num_threads) {
    Pool *pool = aligned_alloc(64, sizeof(Pool));
    if (!pool) return 0;
    *pool = (Pool){.num_threads = 1, .next_index = 1};
    pool->threads = calloc((size_t)num_threads, sizeof(pthread_t));
    int error = pool->threads ? 0 : errno;
    while (!error && pool->num_threads < num_threads) {
        error = pthread_create(&pool->threads[pool->num_threads], 0, work, pool);
        if (!error) pool->num_threads++;
    }
    if (!error) return pool;
    pool_free(pool); /* ends those that were started */
    errno = error;
    return 0;
}

void pool_run(Pool *pool, Task task, void *context) {
    if (pool->num_threads == 1) {
        task(context, 0);
        return;
    }
    pool->task = task;
    pool->context = context;
    atomic_fetch_add(&pool->round, 1);
    if (atomic_load(&pool->num_sleeping)) futex(&pool->round, FUTEX_WAKE, INT32_MAX);
    task(context, 0);
    pool_barrier(pool);
}

void pool_free(Pool *pool) {
    pool->is_ending = 1;
    atomic_fetch_add(&pool->round, 1);
    futex(&pool->round, FUTEX_WAKE, INT32_MAX);
    for (int i = 1; i < pool->num_threads; i++) pthread_join(pool->threads[i], 0);
    free(pool->threads);
    free(pool);
}

int pool_size(const Pool *pool) { return pool->num_threads; }
