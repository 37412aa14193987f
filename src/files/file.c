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
#include "files/attempts.h"

static struct error open_once(const char *path, int *descriptor, int64_t *size)
{
    // nonblocking: a pipe must not block us before we see what it is
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_path("open", path);
    struct stat status;
    struct error e = ok();
    if (fstat(fd, &status) != 0)
        e = error_path("look at", path);
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

struct error file_open(const char *path, int *descriptor, int64_t *size)
{
    for (struct attempts a = {0};;) {
        struct error e = open_once(path, descriptor, size);
        if (!attempts_again(&a, e))
            return e;
    }
}

struct error file_read_bytes(const char *path, int descriptor, char *bytes, int64_t size, int64_t *done)
{
    for (*done = 0; *done < size;) {
        ssize_t got = read(descriptor, bytes + *done, (size_t)(size - *done));
        if (got < 0 && errno != EINTR)
            return error_path("read", path);
        if (got == 0)
            break;
        *done += got > 0 ? got : 0;
    }
    return ok();
}

/* One attempt; free *data even after an error. */
static struct error read_once(const char *path, int64_t limit, char **data, int64_t *size)
{
    int fd;
    int64_t expected;
    TRY(open_once(path, &fd, &expected));
    struct error e = ok();
    if (expected > limit)
        e = error_input("%s: has %lld bytes, expected at most %lld", path, (long long)expected, (long long)limit);
    else if (!(*data = memory_alloc(expected + 1, 1)))
        e = error_memory(path);
    else
        e = file_read_bytes(path, fd, *data, expected, size);
    close(fd);
    if (e.code == ERROR_NONE)
        (*data)[*size] = 0;
    return e;
}

struct error file_read(const char *path, int64_t limit, char **data, int64_t *size)
{
    char *bytes = NULL;
    int64_t count = 0;
    struct error e;
    for (struct attempts a = {0};;) {
        e = read_once(path, limit, &bytes, &count);
        if (e.code == ERROR_NONE)
            e = file_check_content(path, bytes, count);
        if (e.code == ERROR_NONE)
            break;
        memory_free(bytes);
        bytes = NULL;
        if (!attempts_again(&a, e))
            return e;
    }
    *data = bytes;
    *size = count;
    return ok();
}

struct error file_check_content(const char *path, const void *bytes, int64_t size)
{
    static const char *const starts[] = {"version https://git-lfs.github.com/spec/",
                                         "version https://hawser.github.com/spec/"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (size >= (int64_t)strlen(starts[i]) && memcmp(bytes, starts[i], strlen(starts[i])) == 0)
            return error_input("%s: is a git-lfs pointer, not the file itself; run `git lfs pull` in its repository",
                               path);
    return ok();
}

static struct error crc_once(const char *path, uint32_t *crc)
{
    char piece[1 << 16];
    int fd;
    int64_t size, got = sizeof piece;
    *crc = 0;
    TRY(open_once(path, &fd, &size));
    struct error e = ok();
    while (e.code == ERROR_NONE && got == (int64_t)sizeof piece) {
        e = file_read_bytes(path, fd, piece, sizeof piece, &got);
        *crc = (uint32_t)crc32_z(*crc, (const void *)piece, (size_t)got);
    }
    close(fd);
    return e;
}

struct error file_crc(const char *path, uint32_t *crc)
{
    for (struct attempts a = {0};;) {
        struct error e = crc_once(path, crc);
        if (!attempts_again(&a, e))
            return e;
    }
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

bool folder_sync(int folder)
{
    return fsync(folder) == 0 || errno == EINVAL; // some file systems cannot do this, and need not
}

struct error folder_sync_of(const char *path)
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
    struct error e = folder_sync(fd) ? ok() : error_errno("sync", folder);
    close(fd);
    return e;
}

static struct error end_file(struct whole_file *file, bool good, bool lightly)
{
    struct error e = ok();
    if (good && (fflush(file->stream) != 0 || ferror(file->stream) || (!lightly && fsync(fileno(file->stream)) != 0)))
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
    return lightly ? ok() : folder_sync_of(file->path);
}

struct error whole_file_end(struct whole_file *file, bool good)
{
    return end_file(file, good, false);
}

struct error whole_file_end_lightly(struct whole_file *file, bool good)
{
    return end_file(file, good, true);
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

struct error file_append(const char *path, int descriptor, const void *data, int64_t size, int64_t *end)
{
    for (int64_t done = 0; done < size;) {
        ssize_t written = pwrite(descriptor, (const char *)data + done, (size_t)(size - done), (off_t)(*end + done));
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            struct error e = error_errno("write", path);
            int cut = ftruncate(descriptor, (off_t)*end);
            (void)cut; // if even this fails, the next try overwrites the rest
            return e;
        }
        done += written;
    }
    *end += size;
    return ok();
}

static struct error look_once(const char *path, enum path_kind *kind)
{
    struct stat status;
    *kind = PATH_NOTHING;
    if (stat(path, &status) == 0)
        *kind = S_ISDIR(status.st_mode) ? PATH_FOLDER : PATH_FILE;
    else if (errno != ENOENT && errno != ENOTDIR)
        return error_path("look at", path);
    return ok();
}

struct error path_look(const char *path, enum path_kind *kind)
{
    for (struct attempts a = {0};;) {
        struct error e = look_once(path, kind);
        if (!attempts_again(&a, e))
            return e;
    }
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

bool path_same(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && is_same(&x, &y);
}

bool path_is_of(const char *path, int descriptor)
{
    struct stat x, y;
    return stat(path, &x) == 0 && fstat(descriptor, &y) == 0 && is_same(&x, &y);
}

bool file_exists(const char *path)
{
    enum path_kind kind;
    return path_look(path, &kind).code == ERROR_NONE && kind == PATH_FILE;
}

bool folder_exists(const char *path)
{
    enum path_kind kind;
    return path_look(path, &kind).code == ERROR_NONE && kind == PATH_FOLDER;
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

/* An open folder again, from its first name; the path's, if it is -1. */
static DIR *open_list(int descriptor, const char *path)
{
    if (descriptor < 0)
        return opendir(path);
    int own = openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = own >= 0 ? fdopendir(own) : NULL;
    if (own >= 0 && !folder)
        close(own);
    return folder;
}

static struct error list_once(int descriptor, const char *path, char ***names, int64_t *count)
{
    DIR *folder = open_list(descriptor, path);
    if (!folder)
        return error_path("list the folder", path);
    int64_t room = 0;
    struct error e = ok();
    while (e.code == ERROR_NONE) {
        errno = 0;
        const struct dirent *item = readdir(folder);
        if (!item && errno)
            e = error_path("list the folder", path);
        if (!item)
            break;
        if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0)
            e = append_name(names, count, &room, item->d_name);
    }
    closedir(folder);
    return e;
}

struct error folder_list_at(int descriptor, const char *path, char ***names, int64_t *count)
{
    char **list = NULL;
    int64_t used = 0;
    for (struct attempts a = {0};;) {
        struct error e = list_once(descriptor, path, &list, &used);
        if (e.code == ERROR_NONE)
            break;
        folder_list_free(list, used);
        list = NULL;
        used = 0;
        if (!attempts_again(&a, e))
            return e;
    }
    if (used)
        qsort(list, (size_t)used, sizeof *list, compare_names);
    *names = list;
    *count = used;
    return ok();
}

struct error folder_list(const char *path, char ***names, int64_t *count)
{
    return folder_list_at(-1, path, names, count);
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

bool path_lies_within(const char *folder, const char *path)
{
    size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0 || strcmp(folder, "/") == 0);
}

/* Where a link leads; even a dangling link counts, since writing would follow it. */
static struct error link_within(const char *root, const char *path)
{
    struct stat status;
    char real[PATH_MAX];
    if (lstat(path, &status) != 0 || !S_ISLNK(status.st_mode))
        return ok();
    if (!realpath(path, real) || !path_lies_within(root, real))
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
        return error_path("look at", root);
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

static bool is_unfinished(const char *name)
{
    size_t length = strlen(name), end = length > 4 ? length - 4 : 0, at = end;
    while (at > 0 && name[at - 1] >= '0' && name[at - 1] <= '9')
        at--;
    return end > 0 && strcmp(name + end, ".tmp") == 0 && at < end && at > 0 && name[at - 1] == '.';
}

struct error folder_clean_unfinished(const char *path)
{
    return folder_clean(path, is_unfinished);
}
