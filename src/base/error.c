#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
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
    return prefix;
}

struct error error_errno(const char *what, const char *path)
{
    return error_failed("%s: cannot %s: %s", path, what, strerror(errno));
}

struct error error_memory(const char *what)
{
    return error_failed("out of memory for %s", what);
}

struct error error_first(struct error a, struct error b)
{
    return a.code != ERROR_NONE ? a : b;
}
