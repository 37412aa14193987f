#include "files/on_end.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "files/file.h"

struct on_end_program {
    struct on_end_program *next;
    pid_t process;
    char name[PATH_SIZE], folder[PATH_SIZE];
};

static const double look_pause = 0.02; /* seconds between two looks */

/* -------------------------------------------------------------------------------- is there such a program? */

/* 0, or why it cannot be run. */
static int why_not(const char *path)
{
    struct stat about;
    if (stat(path, &about) != 0 || access(path, X_OK) != 0)
        return errno;
    return S_ISDIR(about.st_mode) ? EISDIR : 0;
}

static bool is_on_path(const char *name)
{
    const char *folders = getenv("PATH");
    char path[PATH_SIZE];
    for (; folders && *folders; folders += *folders == ':') {
        int length = (int)strcspn(folders, ":");
        bool fits = snprintf(path, sizeof path, "%.*s/%s", length, length ? folders : ".", name) < PATH_SIZE;
        if (fits && why_not(path) == 0)
            return true;
        folders += length;
    }
    return false;
}

struct error on_end_check(const char *program)
{
    if (!program)
        return ok();
    if (!strchr(program, '/'))
        return is_on_path(program) ? ok() : error_input("%s: no such program on PATH", program);
    errno = why_not(program);
    return errno ? error_path("run", program) : ok();
}

/* -------------------------------------------------------------------------------- starting one */

/* What a launcher told this rank: a program that took itself for this rank could not start MPI. */
static bool is_of_launcher(const char *variable)
{
    static const char *const kept = "OMPI_ALLOW_RUN_AS_ROOT";
    static const char *const dropped[] = {"OMPI_", "PMIX_", "PMI_", "SLURM_STEP_", "SLURM_PROCID=", "SLURM_LOCALID="};
    if (strncmp(variable, kept, strlen(kept)) == 0)
        return false;
    for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++)
        if (strncmp(variable, dropped[i], strlen(dropped[i])) == 0)
            return true;
    return false;
}

/* The environment without that; its texts are borrowed. NULL: out of memory. */
static char **make_environment(void)
{
    int64_t count = 0;
    while (environ[count])
        count++;
    char **kept = memory_alloc(count + 1, sizeof *kept), **to = kept;
    for (int64_t i = 0; kept && i < count; i++)
        if (!is_of_launcher(environ[i]))
            *to++ = environ[i];
    return kept;
}

/* 0, or an errno. */
static int spawn(struct on_end_program *p, const char *state, char **environment)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t how;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int e = posix_spawn_file_actions_init(&files);
    if (e)
        return e;
    e = posix_spawnattr_init(&how);
    if (e == 0) {
        posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        posix_spawnattr_setsigmask(&how, &none);
        posix_spawnattr_setsigdefault(&how, &all);
        e = posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        e = e ? e : posix_spawn_file_actions_adddup2(&files, log_descriptor(), STDOUT_FILENO);
        e = e ? e : posix_spawn_file_actions_adddup2(&files, log_descriptor(), STDERR_FILENO);
        char *const words[] = {p->name, p->folder, (char *)state, NULL};
        e = e ? e : posix_spawnp(&p->process, p->name, &files, &how, words, environment);
        posix_spawnattr_destroy(&how);
    }
    posix_spawn_file_actions_destroy(&files);
    return e;
}

void on_end_start(struct on_end *programs, const char *program, const char *folder, const char *state)
{
    if (!program)
        return;
    struct on_end_program *p = memory_alloc(1, sizeof *p);
    char **environment = make_environment();
    int e = ENOMEM;
    if (p && environment) {
        snprintf(p->name, sizeof p->name, "%s", program);
        snprintf(p->folder, sizeof p->folder, "%s", folder);
        e = spawn(p, state, environment);
    }
    memory_free(environment);
    if (e) {
        log_warning("output.on_end: %s: cannot be started for %s: %s", program, folder, strerror(e));
        memory_free(p);
        return;
    }
    p->next = programs->first;
    programs->first = p;
}

/* -------------------------------------------------------------------------------- ending */

static void warn_of_failure(const struct on_end_program *p, int status)
{
    if (WIFSIGNALED(status))
        log_warning("output.on_end: %s: killed by signal %d for %s", p->name, WTERMSIG(status), p->folder);
    else if (WEXITSTATUS(status) != 0)
        log_warning("output.on_end: %s: ended with exit code %d for %s", p->name, WEXITSTATUS(status), p->folder);
}

void on_end_reap(struct on_end *programs)
{
    for (struct on_end_program **at = &programs->first, *p; (p = *at);) {
        int status;
        pid_t ended = waitpid(p->process, &status, WNOHANG);
        if (ended == 0 || (ended < 0 && errno == EINTR)) {
            at = &p->next;
            continue;
        }
        if (ended > 0)
            warn_of_failure(p, status);
        *at = p->next;
        memory_free(p);
    }
}

void on_end_wait(struct on_end *programs, double seconds)
{
    struct progress progress;
    double until = clock_seconds() + seconds;
    progress_phase(&progress, "waiting for output.on_end", 0, "");
    for (on_end_reap(programs); programs->first && clock_seconds() < until; on_end_reap(programs))
        clock_sleep(look_pause);
    progress_end(&progress);
    for (struct on_end_program *p = programs->first, *next; p; p = next) {
        next = p->next;
        log_warning("output.on_end: %s: still runs after %.0f s for %s, and is left to itself", p->name, seconds,
                    p->folder);
        memory_free(p);
    }
    programs->first = NULL;
}
