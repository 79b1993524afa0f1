/* Preloaded into a process: of the calls with which the kernels ask for memory and threads, a
 * chosen one is refused. What they were given and have not given back is counted. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { MOST = 256 };

extern void *__libc_calloc(size_t count, size_t size);
extern void __libc_free(void *pointer);

static int refused, num_calls, num_threads;
static void *given[MOST];

/* The call with this number from now on, from 1; none with 0. */
void refuse(int number) {
    refused = number;
    num_calls = 0;
}

int calls_since(void) { return num_calls; }

int pieces_kept(void) {
    int kept = 0;
    for (int i = 0; i < MOST; i++) kept += given[i] != 0;
    return kept;
}

int threads_kept(void) { return num_threads; }

static int is_kernels(void *caller) {
    Dl_info info;
    return dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "/_kernels.");
}

static int is_refused(void) { return ++num_calls == refused; }

static void *keep(void *pointer) {
    for (int i = 0; pointer && i < MOST; i++)
        if (!given[i]) {
            given[i] = pointer;
            break;
        }
    return pointer;
}

void *calloc(size_t count, size_t size) {
    if (!is_kernels(__builtin_return_address(0))) return __libc_calloc(count, size);
    if (!is_refused()) return keep(__libc_calloc(count, size));
    errno = ENOMEM;
    return 0;
}

void *aligned_alloc(size_t alignment, size_t size) {
    void *(*real)(size_t, size_t) = dlsym(RTLD_NEXT, "aligned_alloc");
    if (!is_kernels(__builtin_return_address(0))) return real(alignment, size);
    if (!is_refused()) return keep(real(alignment, size));
    errno = ENOMEM;
    return 0;
}

void free(void *pointer) {
    for (int i = 0; pointer && i < MOST; i++)
        if (given[i] == pointer) given[i] = 0;
    __libc_free(pointer);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                   void *argument) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
        dlsym(RTLD_NEXT, "pthread_create");
    if (!is_kernels(__builtin_return_address(0))) return real(thread, attributes, run, argument);
    if (is_refused()) return EAGAIN;
    int error = real(thread, attributes, run, argument);
    num_threads += !error;
    return error;
}

int pthread_join(pthread_t thread, void **result) {
    int (*real)(pthread_t, void **) = dlsym(RTLD_NEXT, "pthread_join");
    int error = real(thread, result);
    num_threads -= !error && is_kernels(__builtin_return_address(0));
    return error;
}
