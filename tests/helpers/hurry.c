/* libhurry.so, for LD_PRELOAD: time passes ZOODIP_HURRY times as fast for the program, so that what takes milliseconds takes
 * seconds, and sleeps end as much sooner. The date stays. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double factor(void)
{
    const char *text = getenv("ZOODIP_HURRY");
    return text ? atof(text) : 1;
}

static struct timespec of_seconds(double seconds)
{
    time_t whole = (time_t)seconds;
    return (struct timespec){whole, (long)(1e9 * (seconds - (double)whole))};
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int code = (int)syscall(SYS_clock_gettime, clock, now);
    if (code == 0 && clock == CLOCK_MONOTONIC)
        *now = of_seconds(factor() * ((double)now->tv_sec + 1e-9 * (double)now->tv_nsec));
    return code;
}

int nanosleep(const struct timespec *wanted, struct timespec *left)
{
    struct timespec less = of_seconds(((double)wanted->tv_sec + 1e-9 * (double)wanted->tv_nsec) / factor());
    return (int)syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &less, left);
}
