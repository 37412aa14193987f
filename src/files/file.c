#include "files/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "base/memory.h"

/* The error of open or stat for a path that the user named: the user's mistake, unless the machine ran out of
 * something. */
static struct error open_error(const char *what, const char *path)
{
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == EIO)
        return error_errno(what, path);
    return error_input("%s: cannot %s: %s", path, what, strerror(errno));
}

struct error file_open(const char *path, int *descriptor, int64_t *size)
{
    // nonblocking: a pipe must not block us before we see what it is
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return open_error("open", path);
    struct stat status;
    struct error e = ok();
    if (fstat(fd, &status) != 0)
        e = error_errno("look at", path);
    else if (S_ISDIR(status.st_mode))
        e = error_input("%s: is a folder, expected a file", path);
    else if (!S_ISREG(status.st_mode))
        e = error_input("%s: is not a regular file", path);
    if (e.code != ERROR_NONE) {
        close(fd);
        return e;
    }
    *descriptor = fd;
    *size = (int64_t)status.st_size;
    return ok();
}

struct error file_read(const char *path, int64_t limit, char **data, int64_t *size)
{
    int fd;
    int64_t expected;
    TRY(file_open(path, &fd, &expected));
    struct error e = ok();
    char *bytes = NULL;
    int64_t done = 0;
    if (expected > limit)
        e = error_input("%s: has %lld bytes, expected at most %lld", path, (long long)expected, (long long)limit);
    else if (!(bytes = memory_alloc(expected + 1, 1)))
        e = error_memory(path);
    while (e.code == ERROR_NONE && done < expected) {
        ssize_t got = read(fd, bytes + done, (size_t)(expected - done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            e = error_errno("read", path);
        if (got <= 0)
            break;
        done += got;
    }
    close(fd);
    if (e.code != ERROR_NONE) {
        memory_free(bytes);
        return e;
    }
    bytes[done] = 0;
    *data = bytes;
    *size = done;
    return ok();
}

struct error file_crc(const char *path, uint32_t *crc)
{
    unsigned char piece[1 << 16];
    int fd;
    int64_t size;
    *crc = 0;
    TRY(file_open(path, &fd, &size));
    struct error e = ok();
    for (ssize_t got = 1; got != 0 && e.code == ERROR_NONE;) {
        got = read(fd, piece, sizeof piece);
        if (got > 0)
            *crc = (uint32_t)crc32_z(*crc, piece, (size_t)got);
        else if (got < 0 && errno != EINTR)
            e = error_errno("read", path);
    }
    close(fd);
    return e;
}

struct error whole_file_begin(struct whole_file *file, const char *path)
{
    static const size_t most = 200; /* longest part of a name that leaves room for a suffix */
    const char *name = path_name(path);
    struct timespec now; /* part of the name: processes of other machines or containers may share our number */
    file->stream = NULL;
    int length = snprintf(file->path, sizeof file->path, "%s", path);
    clock_gettime(CLOCK_REALTIME, &now);
    int longer = snprintf(file->temporary, sizeof file->temporary, "%.*s.%ld%09ld.tmp",
                          (int)((size_t)(name - path) + strnlen(name, most)), path, (long)getpid(), now.tv_nsec);
    if (length < 1 || longer >= (int)sizeof file->temporary)
        return error_input("%s: is %s", path, length < 1 ? "an empty path" : "too long a path");
    file->stream = fopen(file->temporary, "wbe");
    if (!file->stream)
        return error_errno("write", path);
    return ok();
}

/* Makes a rename in the folder of `path` survive a power failure. */
static struct error sync_folder_of(const char *path)
{
    char folder[PATH_SIZE];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash)
        strcpy(folder, ".");
    else
        slash[slash == folder] = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_errno("open", folder);
    bool synced = fsync(fd) == 0 || errno == EINVAL; /* some file systems cannot do this, and need not */
    struct error e = synced ? ok() : error_errno("sync", folder);
    close(fd);
    return e;
}

struct error whole_file_end(struct whole_file *file, bool good)
{
    struct error e = ok();
    if (good && (fflush(file->stream) != 0 || ferror(file->stream) || fsync(fileno(file->stream)) != 0))
        e = error_errno("write", file->path);
    if (fclose(file->stream) != 0 && good && e.code == ERROR_NONE)
        e = error_errno("write", file->path);
    file->stream = NULL;
    if (good && e.code == ERROR_NONE && rename(file->temporary, file->path) != 0)
        e = error_errno("write", file->path);
    if (!good || e.code != ERROR_NONE) {
        unlink(file->temporary);
        return e;
    }
    return sync_folder_of(file->path);
}

struct error file_write_whole(const char *path, const void *data, int64_t size)
{
    struct whole_file file;
    TRY(whole_file_begin(&file, path));
    if (fwrite(data, 1, (size_t)size, file.stream) == (size_t)size)
        return whole_file_end(&file, true);
    struct error e = error_errno("write", path);
    whole_file_end(&file, false);
    return e;
}

bool file_exists(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && !S_ISDIR(status.st_mode);
}

bool folder_exists(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static struct error make_one(const char *path)
{
    if (mkdir(path, 0777) == 0)
        return ok();
    int why = errno;
    if (folder_exists(path))
        return ok();
    errno = why; // stat has changed errno
    if (errno == EEXIST)
        return error_input("%s: is a file, expected a folder", path);
    return error_errno("make the folder", path);
}

struct error folder_make(const char *path)
{
    char part[PATH_SIZE];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof part)
        return error_input("%s: is %s", path, length == 0 ? "an empty path" : "too long a path");
    memcpy(part, path, length + 1);
    for (size_t i = 1; i < length; i++) {
        if (part[i] != '/')
            continue;
        part[i] = 0;
        TRY(make_one(part));
        part[i] = '/';
    }
    return make_one(part);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static struct error append_name(char ***names, int64_t *count, int64_t *room, const char *name)
{
    char **more = memory_grow(*names, *count, room, sizeof *more);
    if (!more)
        return error_memory("a folder's names");
    *names = more;
    if (!(more[*count] = memory_string(name)))
        return error_memory("a folder's names");
    ++*count;
    return ok();
}

struct error folder_list(const char *path, char ***names, int64_t *count)
{
    DIR *folder = opendir(path);
    if (!folder)
        return open_error("list the folder", path);
    char **list = NULL;
    int64_t used = 0, room = 0;
    struct error e = ok();
    while (e.code == ERROR_NONE) {
        errno = 0;
        const struct dirent *item = readdir(folder);
        if (!item && errno)
            e = error_errno("list the folder", path);
        if (!item)
            break;
        if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0)
            e = append_name(&list, &used, &room, item->d_name);
    }
    closedir(folder);
    if (e.code != ERROR_NONE) {
        folder_list_free(list, used);
        return e;
    }
    if (used)
        qsort(list, (size_t)used, sizeof *list, compare_names);
    *names = list;
    *count = used;
    return ok();
}

void folder_list_free(char **names, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        memory_free(names[i]);
    memory_free(names);
}

const char *path_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

struct error path_join(char out[PATH_SIZE], const char *folder, const char *name)
{
    size_t length = strlen(folder);
    const char *between = length > 0 && folder[length - 1] == '/' ? "" : "/";
    if (snprintf(out, PATH_SIZE, "%s%s%s", folder, between, name) >= PATH_SIZE)
        return error_input("%.200s: is too long a path", folder);
    return ok();
}

static bool lies_within(const char *root, const char *path)
{
    size_t length = strlen(root);
    return strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0 || strcmp(root, "/") == 0);
}

/* Where a link leads; even a dangling link counts, since writing would follow it. */
static struct error link_within(const char *root, const char *path)
{
    struct stat status;
    char real[PATH_MAX];
    if (lstat(path, &status) != 0 || !S_ISLNK(status.st_mode))
        return ok();
    if (!realpath(path, real) || !lies_within(root, real))
        return error_input("%s: is a link that leads out of %s", path, root);
    return ok();
}

static struct error links_within(const char *root, const char *folder, int depth)
{
    TRY(link_within(root, folder));
    if (!folder_exists(folder))
        return ok();
    char **names;
    int64_t count;
    TRY(folder_list(folder, &names, &count));
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++) {
        char path[PATH_SIZE];
        e = path_join(path, folder, names[i]);
        if (e.code == ERROR_NONE)
            e = depth > 0 ? links_within(root, path, depth - 1) : link_within(root, path);
    }
    folder_list_free(names, count);
    return e;
}

struct error folder_within(const char *root, const char *path)
{
    char real[PATH_MAX];
    if (!realpath(root, real))
        return error_errno("look at", root);
    return links_within(real, path, 1);
}

struct error folder_clean(const char *path, bool (*unwanted)(const char *name))
{
    char **names;
    int64_t count;
    TRY(folder_list(path, &names, &count));
    struct error e = ok();
    for (int64_t i = 0; i < count && e.code == ERROR_NONE; i++) {
        char full[PATH_SIZE];
        if (!unwanted(names[i]))
            continue;
        e = path_join(full, path, names[i]);
        if (e.code == ERROR_NONE && unlink(full) != 0)
            e = error_errno("remove", full);
    }
    folder_list_free(names, count);
    return e;
}
