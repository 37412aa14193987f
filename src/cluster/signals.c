#include "cluster/signals.h"

#include <signal.h>
#include <stddef.h>

/* The one piece of state with no owner: a signal handler has no argument to find another by. */
static volatile sig_atomic_t stop_requested;

static void request_stop(int signal_number)
{
    if (signal_number == SIGINT)
        signal(SIGINT, SIG_DFL);
    stop_requested = 1;
}

void signals_catch(void)
{
    static const int caught[] = {SIGUSR1, SIGTERM, SIGINT};
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++) {
        struct sigaction action = {.sa_handler = request_stop, .sa_flags = SA_RESTART};
        sigemptyset(&action.sa_mask);
        sigaction(caught[i], &action, NULL);
    }
}

bool signals_stop_requested(void)
{
    return stop_requested;
}
