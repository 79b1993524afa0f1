/* Preloaded into a process: once armed, kills it before its n-th call that changes a file system. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static long calls_left;

void kill_before(long call) { calls_left = call; }

static void count(void) {
    if (calls_left && !--calls_left) kill(getpid(), SIGKILL);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define CHANGES(type, name, parameters, arguments) \
    type name parameters {                         \
        count();                                   \
        return NEXT(name) arguments;               \
    }

CHANGES(ssize_t, write, (int file, const void *from, size_t size), (file, from, size))
CHANGES(int, fsync, (int file), (file))
CHANGES(int, fdatasync, (int file), (file))
CHANGES(int, rename, (const char *from, const char *to), (from, to))
CHANGES(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
CHANGES(int, link, (const char *from, const char *to), (from, to))
CHANGES(int, linkat, (int a, const char *from, int b, const char *to, int f), (a, from, b, to, f))
CHANGES(int, unlink, (const char *path), (path))
CHANGES(int, unlinkat, (int at, const char *path, int flags), (at, path, flags))
CHANGES(int, mkdir, (const char *path, mode_t mode), (path, mode))
CHANGES(int, rmdir, (const char *path), (path))
CHANGES(int, chmod, (const char *path, mode_t mode), (path, mode))

#define OPENS(name, parameters, arguments)           \
    int name parameters {                            \
        mode_t mode = 0;                             \
        if (flags & O_CREAT) {                       \
            va_list rest;                            \
            va_start(rest, flags);                   \
            mode = (mode_t)va_arg(rest, int);        \
            va_end(rest);                            \
            count();                                 \
        }                                            \
        return NEXT(name) arguments;                 \
    }

OPENS(open, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPENS(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode))
