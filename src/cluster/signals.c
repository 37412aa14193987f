#include "cluster/signals.h"

#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

static volatile sig_atomic_t stop_requested;
static bool cancel_requested;

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

bool signals_should_stop(void)
{
    return stop_requested != 0 || cancel_requested;
}

void signals_request_cancel(void)
{
    cancel_requested = true;
}

bool signals_cancel_requested(void)
{
    return cancel_requested;
}

void signals_end_cancel(void)
{
    cancel_requested = false;
}

/* -------------------------------------------------------------------------------- mapped files that are gone */

/* All of this runs in a signal handler: no memory, no stdio. */

/* The next line of a file, without its end; cut if it is longer than `line`. */
static bool next_line(int file, char *line, size_t room)
{
    size_t length = 0;
    char c = 0;
    while (read(file, &c, 1) == 1 && c != '\n')
        if (length + 1 < room)
            line[length++] = c;
    line[length] = 0;
    return c == '\n';
}

static uintptr_t read_hex(const char **text)
{
    uintptr_t value = 0;
    for (;; ++*text) {
        char c = **text;
        if (c >= '0' && c <= '9')
            value = value << 4 | (uintptr_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (uintptr_t)(c - 'a' + 10);
        else
            return value;
    }
}

/* The path of a file that an address is mapped from, within `line`; NULL if there is none. A line of maps is
 * "BEGIN-END rights offset device inode   PATH". */
static char *mapped_file(uintptr_t address, char *line, size_t room)
{
    char *path = NULL;
    int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while (maps >= 0 && !path && next_line(maps, line, room)) {
        const char *at = line;
        uintptr_t begin = read_hex(&at);
        at += *at == '-';
        if (address >= begin && address < read_hex(&at))
            path = strchr(line, '/');
    }
    if (maps >= 0)
        close(maps);
    return path;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    static const char before[] = "zoodip: ";
    static const char after[] = ": cannot be read any more: it was cut short, or its disk does not answer\n";
    char line[4500 + sizeof after];
    (void)context;
    char *path = mapped_file((uintptr_t)info->si_addr, line, 4500);
    if (!path) { // not a file's fault: the instruction, which is tried again, ends the process
        signal(number, SIG_DFL);
        return;
    }
    // in one piece, since other threads and ranks may say the same; what stands before the path is longer than this
    char *text = memcpy(path - strlen(before), before, strlen(before));
    memcpy(path + strlen(path), after, sizeof after);
    ssize_t done = write(STDERR_FILENO, text, strlen(text));
    (void)done;
    _exit(ERROR_FAILED);
}

void signals_guard_files(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
    signal(SIGXFSZ, SIG_IGN);
}
