#include "files/claim.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/progress.h"

static const double PAUSE = 0.05; /* seconds between two tries */

/* The socket's name begins with a zero byte, so it is not a file's. */
static socklen_t name_of(struct sockaddr_un *name, const struct stat *folder)
{
    *name = (struct sockaddr_un){.sun_family = AF_UNIX};
    int length = snprintf(name->sun_path + 1, sizeof name->sun_path - 1, "zoodip %llx %llx",
                          (unsigned long long)folder->st_dev, (unsigned long long)folder->st_ino);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

/* Tries until it succeeds; false after `timeout` seconds. */
static bool bind_within(int to, const struct sockaddr_un *name, socklen_t size, double timeout)
{
    for (double end = clock_seconds() + timeout;; clock_sleep(PAUSE)) {
        if (bind(to, (const struct sockaddr *)name, size) == 0 || errno != EADDRINUSE)
            return true;
        if (clock_seconds() >= end)
            return false;
    }
}

static bool wait_to_bind(int to, const struct sockaddr_un *name, socklen_t size, double timeout)
{
    struct progress progress;
    progress_phase(&progress, "waiting for another run, which is writing in the same folder, to end", 0, "");
    bool claimed = bind_within(to, name, size, timeout);
    progress_end(&progress);
    return claimed;
}

struct error claim_folder(struct claim *claim, const char *folder, double timeout)
{
    struct stat status;
    struct sockaddr_un name;
    *claim = (struct claim){.socket = -1, .folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    claim->held = claim->folder >= 0;
    if (!claim->held || fstat(claim->folder, &status) != 0) {
        struct error e = error_errno("open", folder);
        claim_release(claim);
        return e;
    }
    claim->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t size = name_of(&name, &status);
    if (bind_within(claim->socket, &name, size, 0) ||
        (timeout > 0 && wait_to_bind(claim->socket, &name, size, timeout)))
        return ok();
    claim_release(claim);
    return error_failed("%s: another run is writing here; wait for it to end, or choose another folder", folder);
}

struct error claim_check(const struct claim *claim, const char *path)
{
    struct stat own, there;
    if (!claim->held || fstat(claim->folder, &own) != 0)
        return ok();
    bool found = stat(path, &there) == 0;
    if (!found && errno != ENOENT && errno != ENOTDIR)
        return error_errno("look at", path);
    if (found && there.st_dev == own.st_dev && there.st_ino == own.st_ino)
        return ok();
    return error_failed("%s: is no longer the folder that this run began to write in", path);
}

void claim_release(struct claim *claim)
{
    if (!claim->held)
        return;
    if (claim->socket >= 0)
        close(claim->socket);
    close(claim->folder);
    *claim = (struct claim){0};
}
