#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

struct error ok(void)
{
    return (struct error){0};
}

static struct error make_error(int code, const char *format, va_list arguments)
{
    struct error e = {.code = code};
    vsnprintf(e.text, sizeof e.text, format, arguments);
    text_show_safely(e.text);
    return e;
}

struct error error_failed(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    struct error e = make_error(ERROR_FAILED, format, arguments);
    va_end(arguments);
    return e;
}

struct error error_input(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    struct error e = make_error(ERROR_BAD_INPUT, format, arguments);
    va_end(arguments);
    return e;
}

struct error error_in(struct error e, const char *format, ...)
{
    if (e.code == ERROR_NONE)
        return e;
    va_list arguments;
    va_start(arguments, format);
    struct error prefix = make_error(e.code, format, arguments);
    va_end(arguments);
    size_t used = strlen(prefix.text);
    snprintf(prefix.text + used, sizeof prefix.text - used, ": %s", e.text);
    text_show_safely(prefix.text); // which may be cut now
    prefix.cause = e.cause;
    return prefix;
}

struct error error_errno(const char *what, const char *path)
{
    int cause = errno;
    struct error e = error_failed("%s: cannot %s: %s", path, what, strerror(cause));
    e.cause = cause;
    return e;
}

bool error_is_full_disk(struct error e)
{
    return e.code == ERROR_FAILED && (e.cause == ENOSPC || e.cause == EDQUOT);
}

struct error error_preempted(const char *text)
{
    struct error e = error_failed("%s", text);
    e.code = ERROR_PREEMPTED;
    return e;
}

/* Everything else is a fault of the machine, a disk or the network, and may be gone at the next try. */
static bool blames_path(int number)
{
    static const int numbers[] = {ENOENT,       ENOTDIR, EISDIR, EACCES, EPERM, ELOOP,
                                  ENAMETOOLONG, ENXIO,   ENODEV, EINVAL, EILSEQ};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (number == numbers[i])
            return true;
    return false;
}

struct error error_path(const char *what, const char *path)
{
    struct error e = error_errno(what, path);
    if (blames_path(errno))
        e.code = ERROR_BAD_INPUT;
    return e;
}

struct error error_memory(const char *what)
{
    return error_failed("out of memory for %s", what);
}

struct error error_first(struct error a, struct error b)
{
    return a.code != ERROR_NONE ? a : b;
}
