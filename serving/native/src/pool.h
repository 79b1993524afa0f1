/* A few threads that run one function together, with barriers inside it. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

typedef struct Pool Pool;
typedef void (*Task)(void *context, int thread);

/* Null, with the reason in errno, when memory or one of the threads is not to be had. */
Pool *pool_new(int num_threads);
void pool_free(Pool *pool);
int pool_size(const Pool *pool);
/* Run job(context, i) on every thread; the caller is thread 0. Returns when all are done. */
void pool_run(Pool *pool, Task task, void *context);
/* Let the processor breathe in a loop that waits. */
static inline void pool_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}
/* Wait inside a job until every thread is here. */
void pool_barrier(Pool *pool);
