/* Moves the clock of a process, for `deeper bench faults`: preloaded by LD_PRELOAD, it adds to the time of day the seconds
   that the file DEEPER_CLOCK holds as a binary double. Writing the file moves the clocks of all processes at once.

   Clocks that only count from the start of the machine stay as they are, as they do when someone sets a real clock.
   Debian's libfaketime 0.9.10 cannot be used: with it, a sleep of Python 3.11 raises "Invalid argument"
   (https://github.com/wolfcw/libfaketime/issues/426). */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define EARLIEST_DATE 1000000000 /* seconds: no machine has been on for as long, and every date since 2001 is later */

static const volatile double *offset;

__attribute__((constructor)) static void open_clock(void) {
    const char *path = getenv("DEEPER_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *content = mmap(NULL, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (content != MAP_FAILED)
        offset = content;
}

static time_t seconds(void) { return offset ? (time_t)*offset : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += seconds();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    static int (*real)(struct timeval *, void *);
    if (!real)
        real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
    int failed = real(now, zone);
    if (!failed)
        now->tv_sec += seconds();
    return failed;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}

/* A deadline that was computed from the moved clock is a date; the kernel compares it with its own clock. */
int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!real)
        real = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))dlvsym(
            RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    struct timespec kernels = *deadline;
    if (kernels.tv_sec > EARLIEST_DATE)
        kernels.tv_sec -= seconds();
    return real(condition, mutex, &kernels);
}
