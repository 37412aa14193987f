/* libfaults.so, for LD_PRELOAD: makes calls on some files fail.
 *
 *   ZOODIP_FAULTS="CALLS ERRNO FIRST LAST PART"
 *
 * CALLS is a list such as open,read, or all; ERRNO a number, or KILL. Of the calls whose path contains PART (*: any), those
 * numbered FIRST to LAST, from 1, fail, or the process is killed before the first of them. ZOODIP_FAULTS_ONCE names a file that the
 * first fault makes: once it is there, nothing fails in any process. ZOODIP_FAULTS_COUNT names a file to which each such call appends
 * its name and path as a line, whether it fails or not: how many there are, and which. A call by descriptor belongs to the path that
 * is open there. What a stream writes inside the C library is seen as fwrite, fflush and fclose. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* The next function of this name, the C library's. */
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void count_call(const char *call, const char *path)
{
    const char *to = getenv("ZOODIP_FAULTS_COUNT");
    char line[5000];
    int file = to ? NEXT(open)(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    if (file < 0)
        return;
    int length = snprintf(line, sizeof line, "%s %s\n", call, path);
    ssize_t done = NEXT(write)(file, line, (size_t)length);
    (void)done;
    NEXT(close)(file);
}

static bool is_listed(const char *calls, const char *call)
{
    size_t length = strlen(call);
    for (const char *at = calls; *at; at += strcspn(at, ",") + (at[strcspn(at, ",")] == ','))
        if (strcspn(at, ",") == length && strncmp(at, call, length) == 0)
            return true;
    return strcmp(calls, "all") == 0;
}

static bool is_over(void)
{
    const char *once = getenv("ZOODIP_FAULTS_ONCE");
    int file = once ? NEXT(open)(once, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666) : -1;
    if (file >= 0)
        NEXT(close)(file);
    return once && file < 0;
}

/* Is this one of the calls that fail? Sets errno then. */
static bool fails(const char *call, const char *path)
{
    static int number;
    const char *text = getenv("ZOODIP_FAULTS");
    char calls[200], code[20], part[1000];
    int first, last;
    if (!text || !path || sscanf(text, "%199s %19s %d %d %999s", calls, code, &first, &last, part) != 5)
        return false;
    if (!is_listed(calls, call) || (strcmp(part, "*") != 0 && !strstr(path, part)))
        return false;
    int before = errno;
    count_call(call, path);
    errno = before;
    int mine = __atomic_add_fetch(&number, 1, __ATOMIC_RELAXED);
    if (mine < first || mine > last || is_over())
        return false;
    if (strcmp(code, "KILL") == 0)
        raise(SIGKILL);
    errno = atoi(code);
    return true;
}

static bool fails_open(const char *call, int descriptor)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0 && fails(call, path);
}

/* A path relative to an open folder. */
static bool fails_at(const char *call, int folder, const char *path)
{
    char link[64], whole[8192];
    if (folder == AT_FDCWD || *path == '/')
        return fails(call, path);
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, whole, 4096);
    snprintf(whole + (length > 0 ? length : 0), 4096, "/%s", path);
    return fails(call, whole);
}

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return fails("open", path) ? -1 : NEXT(open)(path, flags, mode);
}

int openat(int folder, const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return fails_at("open", folder, path) ? -1 : NEXT(openat)(folder, path, flags, mode);
}

FILE *fopen(const char *path, const char *mode)
{
    return fails("open", path) ? NULL : NEXT(fopen)(path, mode);
}

DIR *opendir(const char *path)
{
    return fails("opendir", path) ? NULL : NEXT(opendir)(path);
}

struct dirent *readdir(DIR *folder)
{
    return fails_open("readdir", dirfd(folder)) ? NULL : NEXT(readdir)(folder);
}

int stat(const char *path, struct stat *status)
{
    return fails("stat", path) ? -1 : NEXT(stat)(path, status);
}

int lstat(const char *path, struct stat *status)
{
    return fails("stat", path) ? -1 : NEXT(lstat)(path, status);
}

int fstatat(int folder, const char *path, struct stat *status, int flags)
{
    return fails_at("stat", folder, path) ? -1 : NEXT(fstatat)(folder, path, status, flags);
}

int fstat(int descriptor, struct stat *status)
{
    return fails_open("fstat", descriptor) ? -1 : NEXT(fstat)(descriptor, status);
}

ssize_t read(int descriptor, void *to, size_t size)
{
    return fails_open("read", descriptor) ? -1 : NEXT(read)(descriptor, to, size);
}

void *mmap(void *where, size_t size, int protection, int flags, int descriptor, off_t offset)
{
    bool failing = descriptor >= 0 && fails_open("mmap", descriptor);
    return failing ? MAP_FAILED : NEXT(mmap)(where, size, protection, flags, descriptor, offset);
}

ssize_t write(int descriptor, const void *data, size_t size)
{
    return fails_open("write", descriptor) ? -1 : NEXT(write)(descriptor, data, size);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset)
{
    return fails_open("write", descriptor) ? -1 : NEXT(pwrite)(descriptor, data, size, offset);
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream)
{
    if (!fails_open("fwrite", fileno(stream)))
        return NEXT(fwrite)(data, size, count, stream);
    stream->_flags |= 0x20; // glibc's mark of an error
    return 0;
}

int fflush(FILE *stream)
{
    return stream && fails_open("fflush", fileno(stream)) ? EOF : NEXT(fflush)(stream);
}

int fclose(FILE *stream)
{
    bool failing = fails_open("fclose", fileno(stream));
    int code = errno, done = NEXT(fclose)(stream);
    errno = failing ? code : errno;
    return failing ? EOF : done;
}

int close(int descriptor)
{
    bool failing = fails_open("close", descriptor);
    int code = errno, done = NEXT(close)(descriptor);
    errno = failing ? code : errno;
    return failing ? -1 : done;
}

int fsync(int descriptor)
{
    return fails_open("fsync", descriptor) ? -1 : NEXT(fsync)(descriptor);
}

int ftruncate(int descriptor, off_t size)
{
    return fails_open("ftruncate", descriptor) ? -1 : NEXT(ftruncate)(descriptor, size);
}

int rename(const char *from, const char *to)
{
    return fails("rename", to) ? -1 : NEXT(rename)(from, to);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    return fails_at("rename", to_folder, to) ? -1 : NEXT(renameat)(from_folder, from, to_folder, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags)
{
    return fails("exchange", to) ? -1 : NEXT(renameat2)(from_folder, from, to_folder, to, flags);
}

int unlink(const char *path)
{
    return fails("unlink", path) ? -1 : NEXT(unlink)(path);
}

int unlinkat(int folder, const char *path, int flags)
{
    return fails_at("unlink", folder, path) ? -1 : NEXT(unlinkat)(folder, path, flags);
}

int mkdir(const char *path, mode_t mode)
{
    return fails("mkdir", path) ? -1 : NEXT(mkdir)(path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode)
{
    return fails_at("mkdir", folder, path) ? -1 : NEXT(mkdirat)(folder, path, mode);
}
