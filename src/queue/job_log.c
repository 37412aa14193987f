#include "queue/job_log.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "base/progress.h"
#include "files/file.h"

struct error job_log_open(struct job_log *l, const struct job *job)
{
    char path[PATH_SIZE];
    TRY(path_join(path, job->folder, "log.txt"));
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | (job->start == START_RESUME ? 0 : O_TRUNC);
    int file = open(path, flags, 0666);
    if (file < 0)
        return error_errno("write", path);
    int copy = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    struct error e = copy >= 0 && dup2(file, STDERR_FILENO) >= 0 ? ok() : error_errno("write", path);
    close(file);
    if (copy >= 0)
        *l = (struct job_log){.open = true,
                              .was_quiet = log_set_quiet(false),
                              .was_muted = progress_set_muted(false),
                              .original_stderr = copy};
    return e;
}

void job_log_close(struct job_log *l)
{
    if (!l->open)
        return;
    log_set_quiet(l->was_quiet);
    progress_set_muted(l->was_muted);
    dup2(l->original_stderr, STDERR_FILENO);
    close(l->original_stderr);
    *l = (struct job_log){0};
}

void job_log_leave(struct job_log *l)
{
    if (!l || !l->open)
        return;
    log_redirect(l->original_stderr);
    l->quiet_inside = log_set_quiet(l->was_quiet);
}

void job_log_return(struct job_log *l)
{
    if (!l || !l->open)
        return;
    log_redirect(STDERR_FILENO);
    log_set_quiet(l->quiet_inside);
}

void job_log_fatal(const struct job_log *l, const struct job *job, int rank, const char *text)
{
    int to = l->open ? l->original_stderr : STDERR_FILENO;
    char line[1024];
    snprintf(line, sizeof line, "%s: rank %d: %s", job->name, rank, text);
    log_write(to, LEVEL_ERROR, line, &(struct log_facts){.job = job->name});
}
