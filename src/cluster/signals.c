#include "cluster/signals.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t stop_requested;

static void request_stop(int number)
{
    stop_requested = 1;
    if (number == SIGINT)
        signal(SIGINT, SIG_DFL);
}

void signals_watch(void)
{
    // SA_RESTART: a file write in progress must not fail because someone asked us to stop
    struct sigaction action = {.sa_handler = request_stop, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    const int numbers[] = {SIGUSR1, SIGTERM, SIGINT};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaction(numbers[i], &action, NULL);
}

void signals_request_stop(void)
{
    stop_requested = 1;
}

bool signals_stop_requested(void)
{
    return stop_requested != 0;
}
