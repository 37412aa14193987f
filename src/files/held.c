#include "files/held.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

static struct error error_of(const char *what, const struct held *held, const char *name)
{
    char path[PATH_SIZE];
    int why = errno;
    TRY(path_join(path, held->path, name));
    errno = why;
    return error_errno(what, path);
}

/* -------------------------------------------------------------------------------- the folder */

struct error held_open(struct held *held, const char *path)
{
    snprintf(held->path, sizeof held->path, "%s", path);
    held->descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return held->descriptor >= 0 ? ok() : error_errno("open", path);
}

struct error held_enter(struct held *held, const struct held *parent, const char *name)
{
    const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    held->descriptor = -1;
    TRY(path_join(held->path, parent->path, name));
    held->descriptor = openat(parent->descriptor, name, flags);
    if (held->descriptor >= 0 || errno != ENOENT)
        return held->descriptor >= 0 ? ok() : error_errno("open", held->path);
    if (mkdirat(parent->descriptor, name, 0777) != 0 && errno != EEXIST)
        return error_errno("make the folder", held->path);
    held->descriptor = openat(parent->descriptor, name, flags);
    return held->descriptor >= 0 ? ok() : error_errno("open", held->path);
}

void held_close(struct held *held)
{
    if (held->descriptor >= 0)
        close(held->descriptor);
    held->descriptor = -1;
}

bool held_is_removed(const struct held *held)
{
    struct stat status;
    return fstat(held->descriptor, &status) == 0 && status.st_nlink == 0;
}

enum held_kind held_look(const struct held *held, const char *name, double *modified)
{
    struct stat status;
    if (fstatat(held->descriptor, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? HELD_NOTHING : HELD_OTHER;
    if (modified)
        *modified = (double)status.st_mtime;
    return S_ISREG(status.st_mode)   ? HELD_FILE
           : S_ISDIR(status.st_mode) ? HELD_FOLDER
           : S_ISLNK(status.st_mode) ? HELD_LINK
                                     : HELD_OTHER;
}

struct error held_list(const struct held *held, char ***names, int64_t *count)
{
    return folder_list_at(held->descriptor, held->path, names, count);
}

bool held_has_room(const struct held *held, int64_t bytes)
{
    char *zeros = memory_alloc(bytes, 1);
    int file = openat(held->descriptor, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    bool full = file < 0 && (errno == ENOSPC || errno == EDQUOT);
    for (int64_t done = 0; zeros && file >= 0 && !full && done < bytes;) {
        ssize_t put = write(file, zeros + done, (size_t)(bytes - done));
        full = put <= 0;
        done += put;
    }
    full |= file >= 0 && fsync(file) != 0; // a network file system may say so only now
    if (file >= 0)
        close(file);
    memory_free(zeros);
    return !full;
}

/* -------------------------------------------------------------------------------- its files */

/* Looks before it opens, since opening a pipe or a device has effects. */
static struct error open_file(const struct held *held, const char *name, const char *path, int *descriptor,
                              int64_t *size)
{
    struct stat status;
    if (fstatat(held->descriptor, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(status.st_mode))
        return error_input("%s: is not a regular file", path);
    *descriptor = openat(held->descriptor, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (*descriptor >= 0 && fstat(*descriptor, &status) == 0) {
        *size = (int64_t)status.st_size;
        return S_ISREG(status.st_mode) ? ok() : error_input("%s: is not a regular file", path);
    }
    return error_path("open", path);
}

struct error held_read(const struct held *held, const char *name, int64_t limit, char **data, int64_t *size)
{
    int file = -1;
    char *bytes = NULL, path[PATH_SIZE];
    TRY(path_join(path, held->path, name));
    struct error e = open_file(held, name, path, &file, size);
    if (e.code == ERROR_NONE && *size > limit)
        e = error_input("%s: has %lld bytes, expected at most %lld", path, (long long)*size, (long long)limit);
    if (e.code == ERROR_NONE && !(bytes = memory_alloc(*size + 1, 1)))
        e = error_memory(name);
    if (e.code == ERROR_NONE)
        e = file_read_bytes(path, file, bytes, *size, size);
    if (file >= 0)
        close(file);
    if (e.code != ERROR_NONE)
        memory_free(bytes);
    else
        *data = bytes;
    return e;
}

static struct error write_file(const struct held *held, const char *name, const char *text, bool lasting)
{
    static const char temporary[] = ".unfinished"; // only one writer at a time
    size_t length = strlen(text);
    unlinkat(held->descriptor, temporary, 0);
    int file = openat(held->descriptor, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (file < 0)
        return error_of("write", held, name);
    ssize_t put = write(file, text, length);
    if (put >= 0 && put < (ssize_t)length)
        errno = ENOSPC; // for so short a text, a part is all that had room
    struct error e = put == (ssize_t)length && (!lasting || fsync(file) == 0) ? ok() : error_of("write", held, name);
    if (close(file) != 0 && e.code == ERROR_NONE)
        e = error_of("write", held, name);
    if (e.code == ERROR_NONE && renameat(held->descriptor, temporary, held->descriptor, name) != 0)
        e = error_of("write", held, name);
    if (e.code != ERROR_NONE)
        unlinkat(held->descriptor, temporary, 0);
    return e;
}

struct error held_write(const struct held *held, const char *name, const char *text)
{
    return write_file(held, name, text, true);
}

struct error held_write_lightly(const struct held *held, const char *name, const char *text)
{
    return write_file(held, name, text, false);
}

struct error held_move(const struct held *from, const char *name, const struct held *to, const char *new_name)
{
    char what[PATH_SIZE + 300];
    if (renameat(from->descriptor, name, to->descriptor, new_name) == 0)
        return ok();
    int why = errno;
    snprintf(what, sizeof what, "move to %s/%s", to->path, new_name);
    errno = why;
    return error_of(what, from, name);
}
